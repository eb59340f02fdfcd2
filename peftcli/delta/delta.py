"""The delta: what is trained, and the one way to count it, switch it off, save it, load it and merge it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from peftcli.base.base_model import BaseModel
from peftcli.delta.block import Block
from peftcli.delta.composition import compose
from peftcli.delta.method import Method
from peftcli.errors import ArtifactError, MethodError

BASE = "base."  # addresses of base parameters that train
HEAD = "head."  # addresses of the head's parameters
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Delta:
    """Methods, attached to a base model.

    Attributes:
        parameters: Trained tensors without the head, by address.
        head: The head's tensors, by address.
        buffers: What travels beside them.
        originals: The pretrained values of those base parameters that train.
        owners: The method that trains a tensor, by address; the head has none.
        head_start: The head's tensors before training, by address.
    """

    methods: tuple[Method, ...]
    base: BaseModel
    parameters: dict[str, nn.Parameter]
    head: dict[str, nn.Parameter]
    buffers: dict[str, torch.Tensor]
    originals: dict[str, torch.Tensor]
    owners: dict[str, Method]
    head_start: dict[str, torch.Tensor]

    @property
    def size(self) -> int:
        """How many numbers are trained, without the head: |Phi|."""
        return sum(p.numel() for p in self.parameters.values())

    @property
    def head_size(self) -> int:
        """How many numbers the head holds."""
        return sum(p.numel() for p in self.head.values())

    @property
    def mergeable(self) -> bool:
        """Whether every method can be folded into the weights."""
        return all(m.mergeable for m in self.methods)

    @property
    def starts_at_base(self) -> bool:
        """Whether the adapted model equals the base before training."""
        return all(m.starts_at_base for m in self.methods)

    def trained(self) -> dict[str, nn.Parameter]:
        """Return everything that trains, the head included, by address."""
        return {**self.parameters, **self.head}

    def blocks(self) -> list[tuple[str, Block]]:
        """Return the blocks with their paths in the network, innermost first."""
        return [(p, m) for p, m in reversed(list(self.base.network.named_modules())) if isinstance(m, Block)]

    def blocks_of(self, method: Method) -> list[Block]:
        """Return the blocks that ``method`` made."""
        labels = self._labels()
        return [b for _, b in self.blocks() if labels.get(b.address.partition(".")[0]) is method]

    @property
    def phases(self) -> int:
        """How many phases training has; a method with fewer than the others stays in its last."""
        return max((m.phases for m in self.methods), default=1)

    def begin_phase(self, phase: int) -> None:
        """Become what phase ``phase`` (from 0) trains: other tensors, perhaps."""
        for method in self.methods:
            if phase < method.phases:
                method.begin_phase(self, phase)
        self._note_tensors()

    def before_step(self, step: int, total: int) -> None:
        """Let every method do what a step needs before its first batch."""
        for method in self.methods:
            method.before_step(self, step, total)

    def before_update(self) -> None:
        """Let every method see the gradient of a step before the parameters move."""
        for method in self.methods:
            method.before_update(self)

    def penalty(self) -> torch.Tensor | None:
        """Return what all methods together add to the mean loss."""
        found = [p for m in self.methods if (p := m.penalty(self)) is not None]
        return torch.stack(found).sum() if found else None

    @torch.no_grad()
    def reset_head(self) -> None:
        """Give the head the values it had before training."""
        for address, parameter in self.head.items():
            parameter.copy_(self.head_start[address])

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Compute with the base model and its (trained) head alone, bit for bit."""
        blocks = [b for _, b in self.blocks()]
        trained = {n: self.parameters[n].detach().clone() for n in self.originals}
        _switch(blocks, False)
        self._write(self.originals)
        try:
            yield
        finally:
            _switch(blocks, True)
            self._write(trained)

    def state(self) -> dict[str, torch.Tensor]:
        """Return what turns a fresh base model into this one."""
        return {n: t.detach().cpu().clone().contiguous() for n, t in self._tensors().items()}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Write ``state`` into the network.

        Raises:
            ArtifactError: Names or shapes are not those of this delta.
        """
        shapes = {n: tuple(t.shape) for n, t in state.items()}
        for _, block in self.blocks():
            block.make_room(shapes)
        self._note_tensors()
        own = self._tensors()
        missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        wrong = [n for n in own.keys() & state.keys() if own[n].shape != state[n].shape]
        if missing or extra or wrong:
            raise ArtifactError(
                f"the delta does not fit this base model: {len(missing)} tensors missing, {len(extra)} unknown, "
                f"{len(wrong)} of another shape (for instance {', '.join((missing + extra + sorted(wrong))[:5])})"
            )
        self._write(state)
        for _, block in self.blocks():
            block.check_loaded()

    def pack(self) -> Delta:
        """Return the finished delta: what only training needs is dropped, the function stays the same."""
        for _, block in self.blocks():
            block.pack()
        owners = {id(p): self.owners[a] for a, p in self.parameters.items()}
        methods = tuple(m.packed() for m in self.methods)
        return _collect(methods, self.base, self.originals, owners, self.head_start)

    def _labels(self) -> dict[str, Method]:
        """Return the method behind every label that stands before the addresses of blocks."""
        return {a.partition(".")[0]: m for a, m in self.owners.items() if not a.startswith(BASE)}

    def _note_tensors(self) -> None:
        """Note anew what trains and what travels beside it; every method keeps its tensors, old and new."""
        labels, owners = self._labels(), {id(p): self.owners[a] for a, p in self.parameters.items()}
        now = _collect(self.methods, self.base, self.originals, owners, self.head_start)
        owned = {a: labels.get(a.partition(".")[0], method) for a, method in now.owners.items()}
        _refill(self.parameters, now.parameters)
        _refill(self.buffers, now.buffers)
        _refill(self.owners, owned)

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {**self.parameters, **self.head, **self.buffers}

    @torch.no_grad()
    def _write(self, state: Mapping[str, torch.Tensor]) -> None:
        own = self._tensors()
        for name, tensor in state.items():
            own[name].copy_(tensor)


def attach(methods: tuple[Method, ...], base: BaseModel, *, seed: int | None) -> Delta:
    """Attach ``methods`` to ``base`` and note what became trainable.

    However the methods are ordered, their blocks stand around a module as ``Order`` says.

    Args:
        seed: For what the blocks start from; None leaves them as they are made, as a base without numbers needs it.

    Raises:
        MethodError: A method has no meaning on this base model or beside the others, or left nothing to train.
    """
    if sum(m.virtual_tokens(base.anatomy) is not None for m in methods) > 1:
        raise MethodError("two methods of the stack put virtual tokens into the input", hint="Keep one of them.")
    pretrained = {id(p) for n, p in base.parameters.items() if n not in base.head}
    known: set[int] = set()
    owners: dict[int, Method] = {}
    for method in methods:
        method.attach(base)
        _label(base.network, method, known)
        fresh = [p for p in base.network.parameters() if p.requires_grad and id(p) not in owners]
        owners |= {id(p): method for p in fresh}
        if not fresh and method.count(base.anatomy):
            taken = ": what it trains trains already" if owners else ""
            raise MethodError(f"{method.name} left nothing to train on {base.anatomy.family}{taken}")
    compose(base.network)
    if seed is not None:
        for _, block in _blocks(base.network):
            block.initialise(torch.Generator().manual_seed(_seed(seed, block.address)))
    for name in base.head:
        base.parameters[name].requires_grad_(True)
    _widen(base)
    base.network.train(base.network.training)  # new blocks follow the network's mode
    trained_base = {base.address(n): p for n, p in base.parameters.items() if p.requires_grad and id(p) in pretrained}
    originals = {BASE + a: p.detach().clone() for a, p in trained_base.items()}
    head_start = {HEAD + base.address(n): base.parameters[n].detach().clone() for n in sorted(base.head)}
    return _collect(methods, base, originals, owners, head_start)


def _collect(
    methods: tuple[Method, ...],
    base: BaseModel,
    originals: dict[str, torch.Tensor],
    owners: dict[int, Method],
    head_start: dict[str, torch.Tensor],
) -> Delta:
    parameters: dict[str, nn.Parameter] = {}
    buffers: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for _, block in _blocks(base.network):
        for name, parameter in block.own_parameters().items():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                parameters[block.address_of(name)] = parameter
        buffers |= {block.address_of(n): b for n, b in block.own_buffers().items()}
    head: dict[str, nn.Parameter] = {}
    for name, parameter in base.parameters.items():
        if parameter.requires_grad and id(parameter) not in seen:
            seen.add(id(parameter))
            if name in base.head:
                head[HEAD + base.address(name)] = parameter
            else:
                parameters[BASE + base.address(name)] = parameter
    owned = {a: owners.get(id(p), methods[0]) for a, p in parameters.items()}
    return Delta(methods, base, parameters, head, buffers, originals, owned, head_start)


def _refill(one: dict[str, _Value], other: Mapping[str, _Value]) -> None:
    one.clear()
    one.update(other)


def _widen(base: BaseModel) -> None:
    """Hold what trains in float32, and what stands beside it in one module too: a norm wants one type for both.

    So do the frozen norms, exactly: on a CPU they refuse the float32 activations that trained biases can make.
    """
    widened = False
    for module in base.network.modules():
        own = list(module.parameters(recurse=False))
        if any(p.requires_grad for p in own):
            for parameter in own:
                widened = widened or parameter.dtype != torch.float32
                parameter.data = parameter.data.float()
    for tensor in base.anatomy.norms if widened else ():
        base.tensor(tensor.path).data = base.tensor(tensor.path).data.float()


def _blocks(network: nn.Module) -> list[tuple[str, Block]]:
    return [(p, m) for p, m in network.named_modules() if isinstance(m, Block)]


def _label(network: nn.Module, method: Method, known: set[int]) -> None:
    """Put the method's name before the addresses of the blocks it made (numbered from the second of that name)."""
    fresh = [b for _, b in _blocks(network) if id(b) not in known]
    taken = {b.address.split(".")[0] for _, b in _blocks(network) if id(b) in known}
    label = next(name for name in (method.name, *(f"{method.name}-{n}" for n in range(2, 99))) if name not in taken)
    for block in fresh:
        block.address = f"{label}.{block.address}"
        known.add(id(block))


def _switch(blocks: list[Block], enabled: bool) -> None:
    for block in blocks:
        block.enabled = enabled


def _seed(seed: int, address: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{address}".encode()).digest()[:8], "big") >> 1
