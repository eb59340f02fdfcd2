"""Merging: the delta goes into the weights, tensor by tensor, without loading the model."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from peftcli import files
from peftcli.artifact.artifact import DELTA_FOLDER, TENSORS, Artifact, check_base
from peftcli.artifact.base_folder import INDEX, SINGLE, BaseFolder
from peftcli.artifact.fingerprint import fingerprint
from peftcli.artifact.merge_plan import Plan, check_mergeable, make_plan, refuse_pooled
from peftcli.artifact.merged_folder import (
    PROVENANCE,
    copy_companions,
    merged_config,
    provenance,
    refuse_second_merge,
    write_template,
)
from peftcli.artifact.originals import ORIGINALS, keep_originals, lost_bytes
from peftcli.artifact.quantised_base import Into, as_trained, check_into
from peftcli.artifact.row_blocks import Output, RowBlocks
from peftcli.artifact.stack_parts import Part, divide, save_staying
from peftcli.artifact.tensor_file import TensorFile, new_tensor_file

SHARD = "model-{:05d}-of-{:05d}.safetensors"


@dataclass(frozen=True, kw_only=True)
class MergeSettings:
    """How a delta is merged.

    Attributes:
        dtype: float32, bfloat16 or float16; None leaves every tensor as the base stores it.
        shard_bytes: A larger model is written as several files.
        overwrite: Whether an existing folder is replaced.
        allow_base_mismatch: Whether any base of the right shapes is accepted.
        partial: Whether methods that cannot be folded may stay, as a delta inside the merged folder.
        keep_originals: Whether what the merge takes from the base is kept, so that it can be undone without the base.
        into: Where the base was quantised, which of its weights the delta goes into.
    """

    dtype: str | None = None
    shard_bytes: int = 5_000_000_000
    overwrite: bool = False
    allow_base_mismatch: bool = False
    partial: bool = False
    keep_originals: bool = False
    into: Into | None = None


@dataclass(frozen=True, kw_only=True)
class MergeSummary:
    """What a merge did.

    Attributes:
        tensors: How many the merged model has.
        changed: How many of them the delta touched.
        dropped: Tensors of the base that the merged model has no use for.
        folded, staying: The methods that went into the weights, and those that lie beside them as a delta.
        bytes: Of all its tensors.
        dtype: Of most of its numbers.
        relative_error: ||stored - W - dW|| / ||dW||: what rounding took from the delta; None in float32.
        share_unchanged: The share of merged entries that rounding left at the base's value; None in float32.
    """

    out: str
    base: str
    tensors: int
    changed: int
    dropped: tuple[str, ...]
    folded: tuple[str, ...]
    staying: tuple[str, ...]
    bytes: int
    dtype: str
    seconds: float
    relative_error: float | None
    share_unchanged: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def _check(artifact: Artifact, base_folder: Path, settings: MergeSettings) -> None:
    check_into(artifact, settings.into)
    if not settings.partial:
        check_mergeable(artifact)
    refuse_pooled(artifact)
    refuse_second_merge(artifact, base_folder)


def stream(artifact: Artifact, base_folder: Path, out: Path, settings: MergeSettings) -> MergeSummary:
    """Write the merged model into ``out``, which appears complete or not at all.

    Raises:
        MethodError: The method is no change of weights, the delta is merged already, or ``into`` does not fit.
        ArtifactError: The base model is not the one the delta was trained on.
        BaseModelError: The base model's files are missing or damaged.
        ResourceError: ``out`` exists or cannot be written.
    """
    start = time.monotonic()
    _check(artifact, base_folder, settings)
    own = artifact.manifest.base
    with BaseFolder(base_folder) as base, TensorFile(artifact.folder / TENSORS) as delta:
        found = fingerprint(base_folder, strict=settings.keep_originals)
        check_base(artifact, found, str(base_folder), allowed=settings.allow_base_mismatch)
        folded, staying = _parts(artifact, base, delta, partial=settings.partial)
        plan = make_plan(folded, base, delta, settings.dtype, staying.base_tensors if staying else None)
        plan = as_trained(plan, artifact) if settings.into == "dequantised" else plan
        config = merged_config(base.config(), artifact, plan.dtype if settings.dtype else None, whole=staying is None)
        config |= {"tie_word_embeddings": False} if plan.untied else {}
        blocks = RowBlocks()
        left = staying.methods if staying else ()
        size = sum(o.spec.bytes for o in plan.outputs)
        kept = lost_bytes(base, plan.outputs) if settings.keep_originals else 0

        def write(temporary: Path) -> None:
            _write_tensors(plan, blocks, temporary, settings.shard_bytes)
            files.write_json(temporary / "config.json", config)
            files.write_json(temporary / PROVENANCE, provenance(artifact, base_folder, found, left))
            copy_companions(base_folder, temporary)
            write_template(artifact, temporary)
            if settings.keep_originals:
                keep_originals(base, plan.outputs, temporary / ORIGINALS)
            if staying:
                own_base = _base_of_staying(artifact, out, settings.dtype) | {"config": config}
                own_base["fingerprint"] = fingerprint(temporary)
                save_staying(artifact, staying, temporary / DELTA_FOLDER, own_base)

        files.check_new(out, overwrite=settings.overwrite)
        files.check_room(out, size + kept)
        with _one_thread():
            files.commit_folder(out, write, manifest=False, overwrite=settings.overwrite)
    rounded = blocks.loss.numbers > 0
    return MergeSummary(
        out=str(out),
        base=own.name,
        tensors=len(plan.outputs),
        changed=sum(o.changed for o in plan.outputs),
        dropped=plan.dropped,
        folded=tuple(m.name for m in folded.methods),
        staying=tuple(m.name for m in left),
        bytes=size,
        dtype=plan.dtype,
        seconds=time.monotonic() - start,
        relative_error=blocks.loss.relative_error if rounded else None,
        share_unchanged=blocks.loss.share_unchanged if rounded else None,
    )


def _parts(artifact: Artifact, base: BaseFolder, delta: TensorFile, *, partial: bool) -> tuple[Artifact, Part | None]:
    """Return what is folded, with ``delta`` narrowed to its tensors, and what stays."""
    if not partial:
        return artifact, None
    folded, staying = divide(artifact, base.config(), delta.entries)
    delta.narrow(folded.names)
    return replace(artifact, methods=folded.methods), staying


def _base_of_staying(artifact: Artifact, out: Path, dtype: str | None) -> dict[str, Any]:
    dtype = dtype or artifact.manifest.base.dtype
    return {"name": str(out.absolute()), "commit": None, "dtype": dtype, "quantise": "none"}


def _write_tensors(plan: Plan, blocks: RowBlocks, folder: Path, shard_bytes: int) -> None:
    shards = _shards(plan.outputs, shard_bytes)
    names = [SINGLE] if len(shards) == 1 else [SHARD.format(i, len(shards)) for i in range(1, len(shards) + 1)]
    for name, outputs in zip(names, shards, strict=True):
        with new_tensor_file(folder / name, [o.spec for o in outputs]) as writer:
            for output in outputs:
                blocks.write(output, writer)
    if len(shards) > 1:
        places = {o.spec.name: name for name, outputs in zip(names, shards, strict=True) for o in outputs}
        size = sum(o.spec.bytes for o in plan.outputs)
        files.write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": places})


def _shards(outputs: Sequence[Output], limit: int) -> list[list[Output]]:
    """Cut the tensors, in their order, into files of at most ``limit`` bytes (or one tensor)."""
    shards: list[list[Output]] = [[]]
    size = 0
    for output in outputs:
        if shards[-1] and size + output.spec.bytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(output)
        size += output.spec.bytes
    return shards


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread: the blocks are small, and a second one mostly spins while a neighbour is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
