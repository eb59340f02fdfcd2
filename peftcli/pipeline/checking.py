"""``peft check`` and ``peft verify``: all mistakes before anything is computed, and the integrity of what was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftcli.delta.count import closed_form
from peftcli.pipeline.adapting import methods_of
from peftcli.pipeline.reading import read

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
    from peftcli.base.anatomy import Anatomy
    from peftcli.base.source import read_config
    from peftcli.data.datasets import load_data

    splits = load_data(recipe.data, recipe.seed)
    checks.append("data")
    config = read_config(recipe.base.name, recipe.base.revision)
    labels = splits.task.network_settings().get("num_labels")
    anatomy = Anatomy.of(config, task=splits.task.name, labels=labels)
    checks.append("base model")
    count = closed_form(methods_of(recipe), anatomy)
    checks.append("method")
    weights = count.base * BYTES[recipe.base.dtype]
    return {
        "rows": splits.summary["rows"],
        "duplicates": splits.summary["duplicates"],
        "overlap": splits.summary["overlap"],
        "base": count.base,
        "delta": count.delta,
        "head": count.head,
        "fraction": count.fraction,
        "memory": {
            "weights_bytes": weights,
            "training_state_bytes": ADAM_BYTES * (count.delta + count.head),
            "note": "activations come on top and grow with micro_batch_size and max_length",
        },
    }


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
