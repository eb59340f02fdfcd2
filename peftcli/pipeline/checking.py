"""``peft check`` and ``peft verify``: all mistakes before anything is computed, and the integrity of what was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftcli.delta.count import closed_form
from peftcli.pipeline.adapting import methods_of, solve_budgets
from peftcli.pipeline.answering import reframed, untrained
from peftcli.pipeline.building import build, open_sources
from peftcli.pipeline.reading import read

if TYPE_CHECKING:
    from peftcli.recipe.recipe import Recipe

BYTES = {"float32": 4, "auto": 4, "bfloat16": 2, "float16": 2}
ADAM_BYTES = 16  # per trained number: itself, its gradient, two moments, in float32


def check(path: Path, overrides: Sequence[str], deep: bool) -> dict[str, Any]:
    """Check a recipe, and with ``deep`` also its data, its base model and its method on that model.

    Raises:
        PeftcliError: With every mistake of the first stage that has some.
    """
    recipe = read(path, overrides)
    found: dict[str, Any] = {"recipe": str(path), "name": recipe.name, "checks": ["recipe"]}
    if deep:
        found |= _deep(recipe, found["checks"])
    return found


def _deep(recipe: Any, checks: list[str]) -> dict[str, Any]:  # noqa: ANN401
    from peftcli.base.networks import anatomy_for
    from peftcli.base.pooling import check_pooling
    from peftcli.base.quantise import held_bytes, require_engine
    from peftcli.base.source import read_config
    from peftcli.data.datasets import load_data

    require_engine(recipe.base.quantise)
    splits = load_data(recipe.data, recipe.seed)
    checks.append("data")
    config = read_config(recipe.base.name, recipe.base.revision)
    labels = splits.task.network_settings().get("num_labels")
    recipe, budgets = solve_budgets(recipe)
    methods = methods_of(recipe)
    task = reframed(methods, splits.task)
    anatomy = anatomy_for(config, task.model_class, labels)
    check_pooling(anatomy, task.pooling)
    checks.append("base model")
    count = closed_form(methods, anatomy)
    if single := untrained(methods):
        count = replace(count, head=single.head_size(anatomy))
    _check_sources(recipe)
    checks.append("method")
    return {
        "rows": splits.summary["rows"],
        "duplicates": splits.summary["duplicates"],
        "overlap": splits.summary["overlap"],
        "base": count.base,
        "delta": count.delta,
        "head": count.head,
        "fraction": count.fraction,
        "budgets": [s.summary for s in budgets],
        "memory": {
            "weights_bytes": held_bytes(anatomy, recipe.base.quantise, BYTES[recipe.base.dtype]),
            "training_state_bytes": ADAM_BYTES * (count.delta + count.head),
            "note": "activations come on top and grow with micro_batch_size and max_length",
        },
    }


def _check_sources(recipe: Recipe) -> None:
    """Check the trained deltas that methods are built on; where there are some, their base model was fetched."""
    from peftcli.artifact.fingerprint import fingerprint
    from peftcli.base.source import find_source

    methods = methods_of(recipe)
    sources = open_sources(methods)
    source = find_source(recipe.base.name, recipe.base.revision) if sources else None
    build(methods, sources, fingerprint(source.folder) if source else {}, recipe.base.name)


def verify(folder: Path, base: str | None, strict: bool) -> dict[str, Any]:
    """Check every byte of a run or an artifact, and its base model if one is named.

    Raises:
        ArtifactError: Something is damaged or does not fit.
    """
    from peftcli.artifact.verifying import verify as verified
    from peftcli.base.source import find_source

    source = find_source(base, None).folder if base else None
    return {
        "folder": str(folder),
        "checks": [vars(c) if hasattr(c, "__dict__") else c for c in verified(folder, source, strict)],
    }
