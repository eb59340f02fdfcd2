"""Merging a delta whose base model was held quantised: into which weights, since there are two kinds of them.

The numbers that the delta was trained beside are the dequantised ones: merged into these, the function stays what it
was. The original weights are more exact, but with them the delta computes something else. Quantising the result again
would round most of the delta away, and is not offered.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from peftcli.artifact.artifact import Artifact
from peftcli.artifact.merge_plan import Plan
from peftcli.artifact.row_blocks import Held, Output
from peftcli.base.anatomy import Anatomy
from peftcli.base.checkpoint_names import map_names
from peftcli.base.quantise import quantised_paths, require_engine
from peftcli.errors import MethodError

Into = Literal["dequantised", "original"]


def check_into(artifact: Artifact, into: Into | None) -> None:
    """Refuse a merge that does not say which weights it means, or says it where there are only one kind.

    Raises:
        MethodError: It does not, or does needlessly.
        ResourceError: What unpacks the weights is not installed.
    """
    form = artifact.manifest.base.quantise
    if form == "none" and into is not None:
        raise MethodError("the base model was not quantised: there is one kind of weights", hint="Leave --into out.")
    if form != "none" and into is None:
        raise MethodError(
            f"the delta was trained on a base model held in {form}: say which weights it is merged into",
            hint="Write --into dequantised (the same function) or --into original (another one, which is measured).",
        )
    if into == "dequantised":
        require_engine(form)


def as_trained(plan: Plan, artifact: Artifact) -> Plan:
    """Return ``plan`` with the numbers that the delta was trained beside in place of the stored ones."""
    own = artifact.manifest.base
    anatomy = Anatomy.of(own.config)
    transposed = quantised_paths(anatomy)
    paths = map_names([o.stored.entry.name for o in plan.outputs if o.stored], anatomy)
    dtype: torch.dtype = getattr(torch, own.dtype)

    def held(output: Output) -> Output:
        path = paths[output.stored.entry.name] if output.stored else None
        if path not in transposed:
            return output
        return replace(output, held=Held(form=own.quantise, dtype=dtype, transposed=transposed[path]))

    return replace(plan, outputs=tuple(held(o) for o in plan.outputs))
