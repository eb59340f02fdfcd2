"""The families peftcli knows; everything about them is data."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from peftcli.base.architectures import decoders, encoder_decoders, encoders, falcon, llamas, vision
from peftcli.base.architectures.architecture import Architecture
from peftcli.errors import BaseModelError

ARCHITECTURES: dict[str, Architecture] = {
    a.family: a
    for a in (
        encoders.BERT,
        encoders.ROBERTA,
        encoders.ELECTRA,
        encoders.DEBERTA_V2,
        encoders.DISTILBERT,
        decoders.GPT2,
        decoders.GPT_NEO,
        decoders.GPT_NEOX,
        decoders.OPT,
        decoders.BLOOM,
        falcon.FALCON,
        llamas.LLAMA,
        llamas.MISTRAL,
        llamas.QWEN2,
        llamas.QWEN3,
        llamas.GEMMA2,
        llamas.GEMMA3,
        llamas.PHI3,
        encoder_decoders.T5,
        encoder_decoders.BART,
        vision.VIT,
        vision.DEIT,
        vision.CLIP_VISION,
        vision.CLIP,
    )
}


def find(config: Mapping[str, Any]) -> Architecture:
    """Return the architecture that a config.json names.

    Raises:
        BaseModelError: It names none, one that is not known, or an unknown member of a known family.
    """
    family = config.get("model_type")
    if config.get("add_cross_attention"):
        raise BaseModelError(
            f"this {family} has layers of attention over another model's output",
            hint="They are not known here: use it without add_cross_attention.",
        )
    if isinstance(family, str) and family in ARCHITECTURES:
        return ARCHITECTURES[family]
    near = difflib.get_close_matches(str(family), ARCHITECTURES, n=1)
    guess = f"Did you mean '{near[0]}'? " if near else ""
    what = f"the model type {family!r} is not known" if family else "the config names no model_type"
    raise BaseModelError(what, hint=f"{guess}Known are {', '.join(sorted(ARCHITECTURES))}.")
