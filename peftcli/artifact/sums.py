"""The sum of sparse deltas: theta + phi_A + phi_B, a language's and a task's, as one delta."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from peftcli.artifact.artifact import Artifact, ArtifactContents, check_base
from peftcli.delta.delta import HEAD
from peftcli.delta.entries import SparseMethod
from peftcli.errors import ArtifactError

INDICES = ".indices"


def sum_of(artifacts: Sequence[Artifact]) -> ArtifactContents:
    """Return what ``save`` writes for the sum of artifacts; the task and the method's settings are the last one's.

    Raises:
        ArtifactError: They were trained on different base models, are not sparse, or have more than one head.
    """
    last = artifacts[-1]
    for other in artifacts:
        check_base(other, last.manifest.base.fingerprint, last.manifest.base.name)
    methods = [_sparse_method(a) for a in artifacts]
    tensors = sparse_sum([a.tensors() for a in artifacts], label=methods[-1].name)
    size = sum(t.numel() for n, t in tensors.items() if f"{n}{INDICES}" in tensors)
    return ArtifactContents(
        methods=(methods[-1].with_others(methods, size),),
        base=last.manifest.base.model_dump(mode="json"),
        tensors=tensors,
        task=last.manifest.task,
        counts={k: v for k, v in last.manifest.counts.items() if k in ("base", "head")} | {"delta": size},
        seed=last.manifest.seed,
    )


def sparse_sum(states: Sequence[Mapping[str, Tensor]], *, label: str) -> dict[str, Tensor]:
    """Return the state whose change at every entry is the sum of those of ``states``.

    Args:
        states: Of sparse deltas on one base model; at most one of them has a head.
        label: The name of the method that the sum is loaded by.

    Raises:
        ArtifactError: One is not sparse, or two have a head.
    """
    changes: dict[str, list[tuple[Tensor, Tensor]]] = {}
    found: dict[str, Tensor] = {}
    for state in states:
        head = {name: tensor for name, tensor in state.items() if name.startswith(HEAD)}
        if head.keys() & found.keys():
            raise ArtifactError("two of the deltas have a head of their own", hint="A sum has the head of one task.")
        found |= head
        for address, indices, values in _changes(state, head):
            changes.setdefault(address, []).append((indices, values))
    for address, parts in sorted(changes.items()):
        indices, places = torch.unique(torch.cat([i for i, _ in parts]), return_inverse=True)
        values = torch.zeros(len(indices)).index_add_(0, places, torch.cat([v for _, v in parts]).float())
        found |= {f"{label}.{address}": values, f"{label}.{address}{INDICES}": indices}
    return found


def _changes(state: Mapping[str, Tensor], head: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, Tensor]]:
    for name in sorted(state.keys() - head.keys()):
        whole = name.removesuffix(INDICES)
        if whole not in state or f"{whole}{INDICES}" not in state:
            raise ArtifactError(f"{name} is not part of a sparse delta", hint="Deltas of single entries add up so.")
        if name == whole:
            yield name.partition(".")[2], state[f"{name}{INDICES}"], state[name]


def _sparse_method(artifact: Artifact) -> SparseMethod:
    if len(artifact.methods) == 1 and isinstance(artifact.methods[0], SparseMethod):
        return artifact.methods[0]
    names = " and ".join(m.name for m in artifact.methods)
    raise ArtifactError(f"{names} makes no sparse delta", where=str(artifact.folder), hint="Add up those of lt_sft.")
