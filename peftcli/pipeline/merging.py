"""``peft merge``: fold a delta into the weights, and prove that the function stayed the same."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from peftcli.artifact.artifact import Artifact, open_artifact
from peftcli.base.source import find_source
from peftcli.errors import CheckFailed, RecipeError
from peftcli.pipeline.progress import Progress

if TYPE_CHECKING:
    import torch

    from peftcli.artifact.quantised_base import Into
    from peftcli.data.tables import Table
    from peftcli.pipeline.adapting import Prepared

CHECKED_ROWS = 16
ROWS_AT_ONCE = 4
TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 1e-1}  # relative to the largest logit, or to 1


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """How to merge.

    Attributes:
        dtype: Of the result; None keeps each tensor's own.
        check: Whether logits before and after are compared.
        tolerance: Largest difference of a logit, relative to the largest logit; None: by the dtype.
        data: Rows for the check, where the delta is not in its run folder.
        shard_bytes: Largest size of one file of weights.
        overwrite: Replace an existing folder.
        partial: Let methods that cannot be folded stay, as a delta inside the merged folder.
        keep_originals: Keep what the merge takes from the base, so that it can be undone without the base.
        into: Where the base was quantised, which of its weights the delta goes into.
    """

    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    check: bool = True
    tolerance: float | None = None
    data: list[str] | None = None
    shard_bytes: int = 5_000_000_000
    overwrite: bool = False
    partial: bool = False
    keep_originals: bool = False
    into: Into | None = None


def merge(target: Path, out: Path, options: MergeOptions, progress: Progress) -> dict[str, Any]:
    """Write the base model with the delta folded in to ``out``.

    Raises:
        MethodError: The method is not a change of weights.
        ArtifactError: The delta is damaged or belongs to another base.
        CheckFailed: The merged network computes something else; the folder stays for inspection.
    """
    from peftcli.artifact.merging import MergeSettings, stream

    artifact = open_artifact(target)
    rows = _rows(artifact, options) if options.check else None
    base = artifact.manifest.base
    source = find_source(base.name, base.commit)
    settings = MergeSettings(
        dtype=options.dtype,
        shard_bytes=options.shard_bytes,
        overwrite=options.overwrite,
        into=options.into,
        partial=options.partial,
        keep_originals=options.keep_originals,
    )
    start = time.perf_counter()
    summary = stream(artifact, source.folder, out, settings)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    progress.note(f"folded {summary.changed} of {summary.tensors} tensors in {seconds:.1f} s")
    result = {
        "out": str(out),
        "base": source.label,
        **asdict(summary),
        "seconds": seconds,
        "peak_memory_bytes": peak,
        "check": None,
    }
    if rows is not None:
        result["check"] = check = _check(artifact, out, rows, options)
        if check["required"] and not check["passed"]:
            raise CheckFailed(
                f"the merged network differs: max |difference of a logit| {check['max_abs_logit_difference']:.3g}, "
                f"allowed {check['tolerance']:.3g}",
                where=str(out),
                hint="Merge with --dtype float32, or keep the delta beside the base model.",
            )
    return result


def _rows(artifact: Artifact, options: MergeOptions) -> Table:
    from peftcli.data.datasets import load_data
    from peftcli.data.rows import read_rows
    from peftcli.pipeline.reading import read

    recipe = artifact.folder.parent / "recipe.yaml"
    if options.data:
        table = read_rows(options.data)
    elif recipe.exists():
        read_recipe = read(recipe)
        splits = load_data(read_recipe.data, read_recipe.seed)
        table = splits.validation or splits.train
    else:
        raise RecipeError(
            "there are no rows to compare the logits on: no recipe stands beside this delta",
            hint="Name a file with --data, or write --no-check.",
        )
    return table.taken(list(range(min(CHECKED_ROWS, len(table)))))


def _check(artifact: Artifact, out: Path, rows: Table, options: MergeOptions) -> dict[str, Any]:
    from peftcli.delta.delta import attach
    from peftcli.pipeline.opening import open_target, prepare_for

    adapted = prepare_for(artifact)
    delta = attach(artifact.methods, adapted.base, seed=artifact.manifest.seed)
    delta.load(artifact.tensors())
    before = list(_logits(adapted, rows))
    del adapted, delta
    merged = open_target(out)
    merged.adapt()
    after = _logits(merged.prepared, rows)
    difference, largest, agree, total = 0.0, 1.0, 0, 0
    for one, other in zip(before, after, strict=True):
        difference = max(difference, float((one - other).abs().max()))
        largest = max(largest, float(one.abs().max()))
        agree += int((one.argmax(-1) == other.argmax(-1)).sum())
        total += one.shape[0]
    tolerance = (options.tolerance or TOLERANCES[options.dtype or artifact.manifest.base.dtype]) * largest
    return {
        "rows": len(rows),
        "max_abs_logit_difference": difference,
        "tolerance": tolerance,
        "argmax_agreement": agree / total,
        "passed": difference <= tolerance,
        # In the original weights a delta that was trained beside quantised ones is known to compute something else.
        "required": options.into != "original",
    }


def _logits(prepared: Prepared, rows: Table) -> Iterator[torch.Tensor]:
    """Yield the logits of real tokens or rows, in float32 (see Task.logits)."""
    import torch

    network = prepared.base.network.eval()
    dtype = prepared.dtype
    examples = iter(prepared.encode(rows))
    while chunk := list(islice(examples, ROWS_AT_ONCE)):
        batch = prepared.task.collate(chunk, prepared.pad, prepared.virtual)
        with torch.inference_mode(), torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            logits = prepared.task.logits(network, batch).float()
        yield logits
