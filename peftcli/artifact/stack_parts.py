"""The parts of a stack: the methods that are folded into the weights, and those that stay beside them as a delta."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftcli.artifact.artifact import TENSORS, Artifact, ArtifactContents, save
from peftcli.artifact.exports import Export
from peftcli.artifact.numbers import from_bytes
from peftcli.artifact.tensor_file import TensorFile
from peftcli.base.anatomy import NETWORKS, Anatomy
from peftcli.base.base_model import BaseModel
from peftcli.base.loading import empty_base
from peftcli.data.tasks import network_of
from peftcli.delta.composition import check_parting
from peftcli.delta.count import closed_form
from peftcli.delta.delta import BASE, HEAD, Delta, attach
from peftcli.delta.method import Method
from peftcli.errors import MethodError


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some methods of a stack and their tensors.

    Attributes:
        methods: In the order of the stack.
        names: What their tensors and the head are called where these methods are alone -> in the whole stack.
    """

    methods: tuple[Method, ...]
    names: Mapping[str, str]

    @property
    def base_tensors(self) -> frozenset[str]:
        """The addresses of the base model's own tensors among them."""
        return frozenset(n.removeprefix(BASE) for n in self.names if n.startswith(BASE))


def divide(artifact: Artifact, config: Mapping[str, Any], stored: Collection[str]) -> tuple[Part, Part | None]:
    """Return what can be folded into the weights, and what cannot, if anything.

    Args:
        artifact: The delta.
        config: The base model's config.json.
        stored: The names of the artifact's tensors.

    Raises:
        MethodError: Nothing can be folded, or not without the rest.
        ArtifactError: The artifact describes a task that is not known.
    """
    whole = attach(artifact.methods, _empty(artifact, config), seed=None)
    folded = tuple(m for m in artifact.methods if _foldable(whole, m))
    staying = tuple(m for m in artifact.methods if m not in folded)
    if not any(m in whole.owners.values() for m in folded):
        names = " + ".join(m.name for m in artifact.methods)
        what = f"{names} cannot be merged, not even in part: nothing of it is a change of weights"
        raise MethodError(what, hint="Keep the delta beside the base model.")
    check_parting(block for method in folded for block in whole.blocks_of(method))
    parts = [_part(methods, whole, _empty(artifact, config), stored) for methods in (folded, staying) if methods]
    return parts[0], parts[1] if staying else None


def save_staying(artifact: Artifact, part: Part, folder: Path, base: Mapping[str, Any]) -> None:
    """Write the methods that stay, and the head, as an artifact of their own.

    Args:
        artifact: The whole stack.
        part: What stays.
        folder: The new artifact.
        base: What is different of its base model: name, commit, config, fingerprint, dtype.
    """
    own = artifact.manifest
    with TensorFile(artifact.folder / TENSORS) as file:
        file.narrow(part.names)
        tensors = {n: from_bytes(file.read(n), e.dtype).reshape(e.shape) for n, e in file.entries.items()}
    task, labels = network_of(own.task)
    count = closed_form(part.methods, Anatomy.of(base["config"], task=NETWORKS[task], labels=labels))
    contents = ArtifactContents(
        methods=part.methods,
        base={**own.base.model_dump(mode="json"), **base},
        tensors=tensors,
        task=own.task,
        counts={
            "base": count.base,
            "delta": count.delta,
            "head": count.head,
            "fraction": count.fraction,
            "fraction_of_all": count.fraction_of_all,
            "method": "+".join(m.name for m in part.methods),
        },
        seed=own.seed,
        export=Export(kind="none", reason="it is what stayed of a stack that was merged in part"),
    )
    save(folder, contents)


def _empty(artifact: Artifact, config: Mapping[str, Any]) -> BaseModel:
    task, labels = network_of(artifact.manifest.task)
    return empty_base(config, task_class=task, settings={"num_labels": labels} if labels else {})


def _foldable(whole: Delta, method: Method) -> bool:
    """Whether a method can be folded into this base model: AdapterBias, for one, needs a bias there."""
    return method.mergeable and all(b.folds() for b in whole.blocks_of(method) if b.own_parameters())


def _part(methods: tuple[Method, ...], whole: Delta, base: BaseModel, stored: Collection[str]) -> Part:
    delta = attach(methods, base, seed=None)
    labels = {}
    for method in methods:
        for old, new in zip(whole.blocks_of(method), delta.blocks_of(method), strict=True):
            labels[_label(old.address)] = _label(new.address)
    names = {}
    for name in stored:
        if name.startswith(HEAD) or (name.startswith(BASE) and name in delta.parameters):
            names[name] = name
        elif (label := _label(name)) in labels:
            names[labels[label] + name.removeprefix(label)] = name
    return Part(methods=methods, names=names)


def _label(address: str) -> str:
    return address.partition(".")[0]
