"""Where a run computes and in what precision."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from peftcli.recipe.recipe import TrainingSection
    from peftcli.training.evaluation import Precision

MIXED = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


def is_main() -> bool:
    """Whether this is the process that writes, before the processes of a run know each other."""
    return int(os.environ.get("RANK", "0")) == 0


def make_accelerator(training: TrainingSection, dtype: torch.dtype) -> Accelerator:
    """Return the accelerator of a run whose frozen weights are held in ``dtype``."""
    import torch
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs

    # A method may leave a trained tensor out of some batches (a gate that is shut, a layer that is dropped).
    parallel = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(
        mixed_precision=MIXED[precision(training, dtype)],
        cpu=not torch.cuda.is_available(),
        kwargs_handlers=[parallel],
    )


def precision(training: TrainingSection, dtype: torch.dtype) -> Precision:
    """Return what is computed in: what the recipe says, else bfloat16 where a GPU has it, else float32.

    Weights held in half precision are computed with in that precision: the delta beside them stays float32.
    """
    import torch

    if dtype == torch.bfloat16:
        return "bfloat16"
    if dtype == torch.float16:
        return "float16"
    if training.precision != "auto":
        return training.precision
    return "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"
