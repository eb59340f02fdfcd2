"""What a merged model consists of, decided before a byte of it is written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from peftcli.artifact.artifact import Artifact
from peftcli.artifact.base_folder import BaseFolder, StoredTensor
from peftcli.artifact.numbers import DTYPES, NAMES, from_bytes
from peftcli.artifact.row_blocks import Output
from peftcli.artifact.tensor_file import TensorFile, TensorSpec, arranged
from peftcli.base.anatomy import NETWORKS, OUTSIDE, Anatomy
from peftcli.base.base_model import BaseModel
from peftcli.base.checkpoint_names import map_names
from peftcli.base.skeleton import skeleton
from peftcli.data.tasks import network_of
from peftcli.delta.block import Block
from peftcli.delta.delta import BASE, HEAD, Delta, attach
from peftcli.errors import ArtifactError, BaseModelError, MethodError

KEEP = "Keep the delta beside the base model."
GENERATING = ("causal-lm", "seq2seq")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The tensors of the merged model in their order, and what the base has that the merged model has not.

    Attributes:
        dtype: Of most numbers of the merged model, in safetensors' words.
        dropped: Names of tensors that only another task's head needs, or second copies of a tied tensor.
        untied: Whether a head that was tied to the token embeddings has a tensor of its own.
    """

    outputs: tuple[Output, ...]
    dtype: str
    dropped: tuple[str, ...]
    untied: bool = False


def make_plan(
    artifact: Artifact,
    base: BaseFolder,
    delta_file: TensorFile,
    dtype: str | None,
    staying: Collection[str] | None = None,
) -> Plan:
    """Plan the merge.

    Args:
        artifact: The delta.
        base: The base model.
        delta_file: The artifact's tensors, open.
        dtype: What floating-point tensors become; None leaves each as it is.
        staying: Where a part of the stack stays beside the merged model, and with it the head: the addresses of the
            base tensors that are trained by that part.

    Raises:
        MethodError: A method cannot be merged.
        BaseModelError, ArtifactError: The delta and the base do not fit.
    """
    delta = attached(artifact, base.config(), delta_file)
    folds = _folds(delta)
    trained = _trained(delta, delta_file)
    heads = delta.base.head if staying is None else frozenset[str]()
    if staying is not None:
        trained = {n: t for n, t in trained.items() if n not in delta.base.head}
        _refuse_trained_elsewhere(folds, {delta.base.name(address): address for address in staying})
    untied = _untied_head(delta, folds)
    target = NAMES[getattr(torch, dtype)] if dtype else None
    main = target or _main_dtype(base)
    changes = _Changes(delta.base.anatomy, _network_names(delta.base, base.tensors), heads, trained, folds, untied)
    outputs, dropped, seen = _planned(base, changes, target)
    for name in sorted(heads):
        spec = TensorSpec(_full_name(delta.base, name), main, trained[name].entry.shape)
        outputs.append(_output(spec, None, trained[name], ()))
    _check_complete(delta.base, seen | delta.base.head, {*trained, *folds})
    order = {spec: i for i, spec in enumerate(arranged([o.spec for o in outputs]))}
    ordered = tuple(sorted(outputs, key=lambda o: order[o.spec]))
    return Plan(outputs=ordered, dtype=main, dropped=tuple(sorted({*dropped} - {untied})), untied=untied is not None)


@dataclass(frozen=True)
class _Changes:
    """What becomes of the base model's tensors.

    Attributes:
        names: Of the stored tensors in the network.
        heads: The parameters of a head that replaces the base's own.
        trained: Parameters that the delta holds whole.
        folds: The blocks that change a parameter, and what each of them calls it.
        untied: The name of a head that must be written apart from the embeddings.
    """

    anatomy: Anatomy
    names: Mapping[str, str]
    heads: Collection[str]
    trained: Mapping[str, StoredTensor]
    folds: Mapping[str, Sequence[tuple[Block, str]]]
    untied: str | None


def _planned(base: BaseFolder, changes: _Changes, target: str | None) -> tuple[list[Output], list[str], set[str]]:
    """Return what the base's tensors become, those that are left out, and the parameters that were found."""
    names, heads, folds, trained, untied = (
        changes.names,
        changes.heads,
        changes.folds,
        changes.trained,
        changes.untied,
    )
    stored_names = [n for n in base.tensors if n in names]
    written = _written_names(changes.anatomy, stored_names) if heads or untied else {}
    outputs, dropped, seen = [], [], set[str]()
    # Of a tied tensor that is stored twice, the copy under the network's own name comes first.
    for name in sorted(base.tensors, key=lambda n: not n.endswith(names.get(n, n))):
        stored, known = base.tensors[name], names.get(name)
        touched = known in trained or known in folds
        if known in heads:
            continue
        if (known is None and heads) or (known in seen and touched):
            dropped.append(name)
            continue
        seen |= {known} if known else set()
        kind = target if target and _is_float(stored.entry.dtype) else stored.entry.dtype
        own, here = trained.get(known or ""), folds.get(known or "", ())
        outputs.append(_output(TensorSpec(written.get(name, name), kind, stored.entry.shape), stored, own, here))
        if untied and any(block.unties for block, _ in here):
            apart = TensorSpec(untied, kind, stored.entry.shape)
            outputs.append(_output(apart, stored, own, [c for c in here if not c[0].unties]))
    return outputs, dropped, seen


def check_mergeable(artifact: Artifact) -> None:
    """Refuse methods that are no change of weights.

    Raises:
        MethodError: There is one.
    """
    for method in artifact.methods:
        if not method.mergeable:
            others = " + ".join(m.name for m in artifact.methods if m.mergeable)
            partial = f"Write --partial to fold {others} alone; the rest becomes a delta beside the merged model."
            raise MethodError(
                f"{method.name} cannot be merged: it is not a change of weights", hint=partial if others else KEEP
            )


def refuse_pooled(artifact: Artifact) -> None:
    """Refuse a head that would read another state where transformers opens the merged folder by itself.

    Raises:
        MethodError: It is one.
    """
    if artifact.pooled:
        what = "the delta cannot be merged: no file of a plain model can say what its head reads (data.pooling)"
        raise MethodError(what, hint=KEEP)


def attached(artifact: Artifact, config: Mapping[str, Any], file: TensorFile) -> Delta:
    """Attach mergeable methods to a base model without numbers and load what their blocks need.

    Args:
        artifact: The delta.
        config: The base model's config.json.
        file: The artifact's tensors, open.

    Raises:
        ArtifactError: The tensors are not those of the methods.
    """
    task, labels = network_of(artifact.manifest.task)
    anatomy = Anatomy.of(config, task=NETWORKS[task], labels=labels)
    head = {n.removeprefix(HEAD): e.shape for n, e in file.entries.items() if n.startswith(HEAD)}
    delta = attach(artifact.methods, skeleton(anatomy, head), seed=artifact.manifest.seed)
    delta.load({n: _tensor(file, n) for n in file.entries})
    return delta


def _tensor(file: TensorFile, name: str) -> torch.Tensor:
    """Return a block's tensor; base and head tensors are streamed later, so their numbers are not needed here."""
    entry = file.entries[name]
    if name.startswith((BASE, HEAD)):
        return torch.empty(entry.shape, dtype=DTYPES[entry.dtype], device="meta")
    return from_bytes(file.read(name), entry.dtype).reshape(entry.shape)


def _folds(delta: Delta) -> dict[str, tuple[tuple[Block, str], ...]]:
    """Return the blocks that change each parameter of the network, innermost first."""
    found: dict[str, list[tuple[Block, str]]] = defaultdict(list)
    for path, block in delta.blocks():
        names = block.folds()
        if not names and block.own_parameters():
            raise MethodError(f"{block.address} cannot be merged: it is not a change of weights", hint=KEEP)
        module = ".".join(part for part in path.split(".") if part != "wrapped")
        for name in names:
            found[f"{module}.{name}"].append((block, name))
    return {name: tuple(blocks) for name, blocks in found.items()}


def _untied_head(delta: Delta, folds: Mapping[str, Sequence[tuple[Block, str]]]) -> str | None:
    """Return the weight of a head that is tied to embeddings which move without it; None: there is none."""
    anatomy = delta.base.anatomy
    head = anatomy.architecture.lm_head
    moved = any(block.unties for blocks in folds.values() for block, _ in blocks)
    if not moved or head is None or anatomy.task not in GENERATING or f"{OUTSIDE}{head.path}.weight" in _paths(anatomy):
        return None
    if anatomy.arch != "decoder":
        raise MethodError(
            f"embeddings of {anatomy.family} cannot be merged: its head is tied to them and scaled where it is",
            hint=KEEP,
        )
    return f"{head.path}.weight"


def _paths(anatomy: Anatomy) -> set[str]:
    return {tensor.path for tensor in anatomy.tensors}


def _refuse_trained_elsewhere(folds: Collection[str], staying: Mapping[str, str]) -> None:
    for name in sorted(staying.keys() & set(folds)):
        raise MethodError(
            f"{staying[name]} is trained by a method that stays and changed by one that is folded: they cannot part",
            hint=KEEP,
        )


def _trained(delta: Delta, file: TensorFile) -> dict[str, StoredTensor]:
    """Return the tensors that were trained as they are, by their names in the network."""
    own = {n: n.removeprefix(BASE).removeprefix(HEAD) for n in file.entries if n.startswith((BASE, HEAD))}
    return {delta.base.name(address): StoredTensor(file, file.entries[n]) for n, address in own.items()}


def _network_names(base: BaseModel, stored: Iterable[str]) -> dict[str, str]:
    """Return the network's name of each stored tensor that is a parameter of it."""
    paths = map_names(stored, base.anatomy)
    return {name: base.name(base.anatomy.address(path)) for name, path in paths.items() if path is not None}


def _output(
    spec: TensorSpec, stored: StoredTensor | None, trained: StoredTensor | None, folds: Sequence[tuple[Block, str]]
) -> Output:
    if trained is not None and trained.entry.shape != spec.shape:
        raise ArtifactError(f"{trained.entry.name} is {trained.entry.shape}, but the base model's is {spec.shape}")
    if folds and stored is not None and not _is_float(stored.entry.dtype):
        raise BaseModelError(
            f"{stored.entry.name} is stored as {stored.entry.dtype}: a delta cannot be merged into quantised weights",
            where=str(stored.file.path),
            hint="Merge onto the model as it was before quantisation.",
        )
    return Output(spec=spec, stored=stored, trained=trained, folds=tuple(folds))


def _check_complete(base: BaseModel, found: Collection[str], touched: Collection[str]) -> None:
    lost = sorted(n for n in touched if n not in found)
    missing = sorted(n for n in base.parameters if n not in found)
    if lost or missing:
        names = ", ".join((lost + missing)[:5])
        raise BaseModelError(f"the base model's files miss {len({*lost, *missing})} tensors (for instance {names})")


def _written_names(anatomy: Anatomy, stored: Sequence[str]) -> dict[str, str]:
    """Return what stored tensors are called beside a head: a bare backbone gets the name it has in such a network."""
    full, bare = anatomy.architecture.prefixes[0], anatomy.architecture.prefixes[-1]
    if any(n.startswith(f"{full}.") for n in stored):
        return {}
    return {n: f"{full}.{n.removeprefix(f'{bare}.') if bare else n}" for n in stored}


def _full_name(base: BaseModel, name: str) -> str:
    """Return what a head's parameter is called in transformers; some lie inside the backbone, as BERT's pooler."""
    path = name.removeprefix(f"{base.prefix}.") if base.prefix else name
    inside = any(t.path == path for t in base.anatomy.tensors)
    return f"{base.anatomy.architecture.prefixes[0]}.{path}" if inside else name


def _is_float(dtype: str) -> bool:
    return dtype in ("F16", "BF16", "F32", "F64")


def _main_dtype(base: BaseFolder) -> str:
    counts: dict[str, int] = defaultdict(int)
    for stored in base.tensors.values():
        if _is_float(stored.entry.dtype):
            counts[stored.entry.dtype] += stored.entry.numbers
    return max(counts, key=lambda n: counts[n])
