"""``peft data``: the rows of a recipe as its network will read them, and what is learned of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from peftcli.base.source import find_reader, read_config
from peftcli.data.datasets import load_data
from peftcli.errors import RecipeError
from peftcli.pipeline.adapting import LONGEST, methods_of, prepare_reading, solve_budgets
from peftcli.pipeline.data_facts import data_facts, data_line
from peftcli.pipeline.reading import read

if TYPE_CHECKING:
    from peftcli.data.examples import Example
    from peftcli.data.tasks import Task

Split = Literal["train", "validation", "test"]


def show_data(path: Path, overrides: Sequence[str], split: Split, rows: int) -> dict[str, Any]:
    """Return the first rows of a split as the network will read them, and the facts of all; no network is loaded.

    Args:
        path: The recipe.
        overrides: Changes of it.
        split: Whose rows are shown.
        rows: How many.

    Raises:
        PeftcliError: The recipe, its data, or the reader of its base model cannot be used.
    """
    from peftcli.base.networks import anatomy_for

    recipe, _ = solve_budgets(read(path, overrides))
    splits = load_data(recipe.data, recipe.seed)
    tables = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    if tables[split] is None:
        raise RecipeError(f"the recipe has no {split} data", where=str(path), hint="Choose another --split.")
    source = find_reader(recipe.base.name, recipe.base.revision)
    labels = splits.task.network_settings().get("num_labels")
    anatomy = anatomy_for(read_config(str(source.folder)), splits.task.model_class, labels)
    reading = prepare_reading(source, anatomy, splits.task, methods_of(recipe))
    longest = reading.task.max_length or LONGEST
    examples = {
        name: reading.task.encode(table, reading.reader, longest, anatomy.vocabulary)
        for name, table in tables.items()
        if table is not None
    }
    facts = data_facts(splits, examples)
    return {
        "recipe": str(path),
        "split": split,
        "max_length": reading.task.max_length,
        "told": data_line(facts, reading.task.told(examples["train"])),
        "data": facts,
        "rows": [_shown(one, reading.task, reading.reader) for one in examples[split].items[:rows]],
    }


def _shown(example: Example, task: Task, reader: Any) -> dict[str, Any]:  # noqa: ANN401
    shown = task.shown(example, reader)
    return {
        "where": example.where,
        "tokens": example.length,
        "items": task.items(example),
        "label": shown.label,
        "stretches": [{"text": one.text, "supervised": one.supervised} for one in shown.stretches],
    }
