"""Quantised base models: in which forms the frozen projections may be held, and what these need. Imports no torch.

A recipe has one key for it, because no second one would be free: nf4 is NormalFloat with double quantisation, as it was
published (Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", 2023, arXiv:2305.14314, section 3), and
int8 has no statistics worth a second quantisation.
"""

from __future__ import annotations

import importlib.util
from importlib import metadata
from typing import Literal

from peftcli.base.anatomy import Anatomy
from peftcli.errors import ResourceError

Form = Literal["none", "nf4", "int8"]

ENGINE = "bitsandbytes"  # packs nf4; int8 is a few lines of torch
BLOCK = 64  # weights that share one absmax in nf4
STATISTICS_BLOCK = 256  # absmax values that share one scale
# Beside the numbers themselves: in nf4 an absmax of 8 bits a block, and 32 bits for every 256 of those.
BITS = {"nf4": 4 + 8 / BLOCK + 32 / (BLOCK * STATISTICS_BLOCK), "int8": 8.0}


def require_engine(form: Form) -> None:
    """Refuse a form whose package is not installed; nothing is imported for it.

    Raises:
        ResourceError: It is missing.
    """
    if form == "nf4" and importlib.util.find_spec(ENGINE) is None:
        raise ResourceError(
            f"base.quantise: {form} needs the package {ENGINE}, which is not installed",
            hint="Run: pip install 'peftcli[quantise]'",
        )


def engine_of(form: Form) -> str | None:
    """Return the package that packs a form, with its version; None where none is needed."""
    return f"{ENGINE} {metadata.version(ENGINE)}" if form == "nf4" else None


def quantised_paths(anatomy: Anatomy) -> dict[str, bool]:
    """Return the weights that are quantised, by path, and whether each is stored transposed.

    They are the projections inside the layers: never embeddings, norms, biases, the lm_head or a task's head.
    """
    return {f"{site.path}.weight": site.transposed for site in anatomy.sites(anatomy.projections)}


def held_bytes(anatomy: Anatomy, form: Form, number_bytes: int) -> int:
    """Return the memory that the base model's weights take.

    Args:
        anatomy: The base model.
        form: How its projections are held.
        number_bytes: Of one number that is not quantised.
    """
    if form == "none":
        return anatomy.size * number_bytes
    paths = quantised_paths(anatomy)
    packed = sum(t.size for t in anatomy.tensors if t.path in paths)
    return round(packed * BITS[form] / 8) + (anatomy.size - packed) * number_bytes
