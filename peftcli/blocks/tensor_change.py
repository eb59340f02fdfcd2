"""Tensors of the base model that change, wherever they sit: W' = W + change, with W itself left as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from peftcli.base.anatomy import BaseTensor
from peftcli.base.base_model import BaseModel
from peftcli.blocks.sparse import Sparse
from peftcli.delta.block import Block, Order
from peftcli.errors import ArtifactError

_WRAPPED = "wrapped"
_VALUES = "values"  # stored under the address of the tensor itself


class WholeChange(nn.Module):
    """A change of every entry of a tensor, from which a mask is chosen."""

    def move(self) -> Tensor:
        """Return what is added to the tensor, without noise."""
        raise NotImplementedError


class Dense(WholeChange):
    """W' = W + values. Shapes: values as W."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(start.shape))
        # Decay would draw the change to zero, and the choice of the largest changes with it.
        self.values.no_decay = True  # type: ignore[attr-defined]

    def move(self) -> Tensor:
        return self.values

    def forward(self, start: Tensor) -> Tensor:
        return start.to(self.values.dtype) + self.values


class TensorChange(Block):
    """Wraps a module and changes tensors that it holds itself: weights, biases, embeddings, norms, class tokens.

    A change is a module: given the tensor as it was it returns what the network computes with, in its own type. A
    method gives and takes changes as its phases ask for them; a tensor without one is the base model's.
    """

    order = Order.WEIGHT

    def __init__(self, wrapped: nn.Module, address: str, tensors: Iterable[str]) -> None:
        super().__init__(wrapped, address)
        self.tensors = tuple(tensors)
        self.changes = nn.ModuleDict()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # as nn.Module declares it
        # Some networks read a weight without calling its module: DeBERTa's table of relative positions.
        changes = self._modules.get("changes")
        if isinstance(changes, nn.ModuleDict) and name in changes and self.enabled:
            return self.changed(name)
        return super().__getattr__(name)

    def start(self, name: str) -> Tensor:
        """Return a tensor as it was."""
        tensor = _holder(self)[1]._parameters[name]
        assert tensor is not None
        return tensor

    def changed(self, name: str) -> Tensor:
        """Return a tensor as it is now, in the type it is held in."""
        start = self.start(name)
        moved: Tensor = self.changes[name](start)
        return moved.to(start.dtype)

    def give(self, name: str, change: nn.Module | None) -> None:
        """Let ``change`` be the change of a tensor, in place of the one it had; None: it has none."""
        if name in self.changes:
            del self.changes[name]
        if change is not None:
            start = self.start(name)
            device = torch.device("cpu") if start.is_meta else start.device
            self.changes[name] = change.to(device).train(self.training)

    def adapted(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        changed = {name: self.changed(name) for name in self.changes}
        return _call_with(self.wrapped, changed, args, kwargs)

    def initialise(self, generator: torch.Generator) -> None:
        # Changes are made with the values they begin with. What a mask holds before it is chosen is drawn.
        for name, change in self.changes.items():
            if isinstance(change, Sparse):
                change.draw(self.start(name).numel(), generator)

    def own_parameters(self) -> dict[str, nn.Parameter]:
        return {_name(t, n): p for t, change in self.changes.items() for n, p in change.named_parameters()}

    def own_buffers(self) -> dict[str, Tensor]:
        return {_name(t, n): b for t, change in self.changes.items() for n, b in change.named_buffers()}

    def make_room(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        for name in self.tensors:
            shape = shapes.get(self.address_of(_name(name, "indices")))
            here = self._change(name)
            if shape is not None and len(shape) == 1:
                if not isinstance(here, Sparse) or len(here.indices) != shape[0]:
                    self.give(name, Sparse(torch.zeros(shape, dtype=torch.int64)))
            elif isinstance(here, Sparse):
                self.give(name, None)

    def check_loaded(self) -> None:
        for name, change in self.changes.items():
            if isinstance(change, Sparse) and not change.fits(self.start(name).numel()):
                raise ArtifactError(f"the indices of {self.address_of(name)} do not rise, or point outside its tensor")

    def folds(self) -> tuple[str, ...]:
        return tuple(self.changes)

    @torch.no_grad()
    def fold(self, name: str, tensor: Tensor, rows: slice) -> Tensor:
        change = self._change(name)
        if change is None:
            return tensor
        assert isinstance(change, Sparse), "a finished change is sparse"
        tensor = tensor.contiguous()
        flat = tensor.view(-1)
        change.add_to(flat, first=rows.start * (len(flat) // (rows.stop - rows.start)))
        return tensor

    def _change(self, name: str) -> nn.Module | None:
        return self.changes[name] if name in self.changes else None  # noqa: SIM401  # a ModuleDict has no get


class Tied(nn.Module):
    """Stands around a module that holds a changed tensor of another one, such as a head tied to the embeddings.

    It has nothing of its own and is no block: what happens to the other module happens here.
    """

    wrapped: nn.Module

    def __init__(self, wrapped: nn.Module, leaders: Mapping[str, tuple[TensorChange, str]]) -> None:
        super().__init__()
        self.wrapped = wrapped
        self.leaders = dict(leaders)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # as nn.Module declares it
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == _WRAPPED:
                raise
            changed = self._changed()
            return changed[name] if name in changed else getattr(self.wrapped, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # whatever the wrapped module takes
        return _call_with(self.wrapped, self._changed(), args, kwargs)

    def _changed(self) -> dict[str, Tensor]:
        found = self.leaders.items()
        return {own: block.changed(name) for own, (block, name) in found if block.enabled and name in block.changes}


def surround(
    base: BaseModel, tensors: Iterable[BaseTensor], kind: type[TensorChange] = TensorChange
) -> dict[str, tuple[TensorChange, str]]:
    """Put a block of a kind around every module that holds one of ``tensors``; those of a new head are left out.

    Returns:
        By address of the tensor: its block, and what the block's module calls it.
    """
    modules: dict[str, dict[str, str]] = {}
    for tensor in tensors:
        name = base.name(tensor.address)
        if name not in base.head:
            base.tensor(tensor.path)  # refuses what is held quantised
            path, _, own = name.rpartition(".")
            modules.setdefault(path, {})[own] = tensor.address
    places = _places(base)
    found: dict[str, tuple[TensorChange, str]] = {}
    for path, names in modules.items():
        address = next(iter(names.values())).rpartition(".")[0]
        block = kind(base.module(path), address, names)
        base.replace(path, block)
        found |= {address: (block, own) for own, address in names.items()}
    _tie(base, {id(block.start(own)): (block, own) for block, own in found.values()}, places)
    return found


def _places(base: BaseModel) -> list[tuple[str, nn.Module]]:
    """Return the modules with tensors of their own, as they stand before blocks are put around them."""
    return [
        (".".join(part for part in path.split(".") if part != _WRAPPED), module)
        for path, module in base.network.named_modules(remove_duplicate=False)
        if module._parameters and not isinstance(module, Block)
    ]


def _tie(
    base: BaseModel, changed: Mapping[int, tuple[TensorChange, str]], places: Iterable[tuple[str, nn.Module]]
) -> None:
    for path, module in places:
        leaders = {own: changed[id(p)] for own, p in module._parameters.items() if id(p) in changed}
        others = {own: leader for own, leader in leaders.items() if _holder(leader[0])[1] is not module}
        if others:
            base.replace(path, Tied(base.module(path), others))
        elif leaders and not _within(base.module(path), next(iter(leaders.values()))[0]):
            base.replace(path, next(iter(leaders.values()))[0])  # one module at two places


def _within(module: nn.Module | None, wanted: nn.Module) -> bool:
    while module is not None and module is not wanted:
        module = module._modules.get(_WRAPPED)
    return module is wanted


def _holder(module: nn.Module) -> tuple[str, nn.Module]:
    """Return the network's own module inside those around it, and how its tensors are reached from ``module``."""
    prefix = ""
    while (inner := module._modules.get(_WRAPPED)) is not None:
        module, prefix = inner, f"{prefix}{_WRAPPED}."
    return prefix, module


def _call_with(module: nn.Module, tensors: Mapping[str, Tensor], args: Any, kwargs: Any) -> Any:  # noqa: ANN401
    if not tensors:
        return module(*args, **kwargs)
    prefix, _ = _holder(module)
    return functional_call(module, {prefix + n: t for n, t in tensors.items()}, args, kwargs, tie_weights=False)


def _name(tensor: str, part: str) -> str:
    return tensor if part == _VALUES else f"{tensor}.{part}"
