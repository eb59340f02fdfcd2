"""Which parameter a tensor in a checkpoint is: checkpoints name them with or without the backbone, and in old words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from peftcli.base.anatomy import OUTSIDE, Anatomy

# Checkpoints from before 2020 call the two parameters of a LayerNorm so.
_OLD_NORMS = ((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))


def map_names(names: Iterable[str], anatomy: Anatomy) -> dict[str, str | None]:
    """Return for each name on disk the base model's path for it (see BaseTensor.path).

    A second copy of a tied tensor maps to the path of the first. What is not the base model's maps to None.
    """
    known = {t.path: t.path for t in (*anatomy.tensors, *anatomy.head_tensors)} | _tied(anatomy)
    return {name: next((known[c] for c in _candidates(name, anatomy) if c in known), None) for name in names}


def _tied(anatomy: Anatomy) -> dict[str, str]:
    table = next((t.path for t in anatomy.tensors if t.site == "embeddings"), None)
    if table is None:
        return {}
    copies = {f"{plan.token}.weight": table for plan in anatomy.architecture.stacks}
    if anatomy.architecture.lm_head is not None and anatomy.values["tied"]:
        copies[f"{OUTSIDE}{anatomy.architecture.lm_head.path}.weight"] = table
    return copies


def _candidates(name: str, anatomy: Anatomy) -> Iterator[str]:
    """Yield the paths that a name may stand for, the likeliest first."""
    starts = [f"{p}." for p in anatomy.architecture.prefixes if p]
    for spelled in dict.fromkeys((name, _renamed(name, _OLD_NORMS))):
        relative = [spelled.removeprefix(s) for s in starts if spelled.startswith(s)]
        for path in (*relative, spelled):
            yield path
            yield _renamed(path, anatomy.architecture.renames)
        yield OUTSIDE + spelled
        yield OUTSIDE + _renamed(spelled, anatomy.architecture.renames)


def _renamed(name: str, renames: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name
