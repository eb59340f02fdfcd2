"""A base model without weights or transformers: enough of a network for deltas to be attached to and folded."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from peftcli.base.anatomy import OUTSIDE, Anatomy
from peftcli.base.base_model import BaseModel
from peftcli.base.sites import Site

_META = torch.device("meta")


class TransposedLinear(nn.Module):
    """A projection whose weight is stored (d_in, d_out), as in GPT-2."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, d_in: int, d_out: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_in, d_out, device=_META))
        self.bias = nn.Parameter(torch.empty(d_out, device=_META)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x @ self.weight
        return y if self.bias is None else y + self.bias


def skeleton(anatomy: Anatomy, head: Mapping[str, tuple[int, ...]] | None = None) -> BaseModel:
    """Return a base model whose parameters have shapes but no values.

    Args:
        anatomy: What it is made of.
        head: Addresses and shapes of the head; default: a new head, as the anatomy has it.
    """
    prefix = anatomy.architecture.prefixes[-1]
    network = nn.Module()
    # A tied tensor goes by the name that is registered first: that of the embeddings, as in the real network.
    _reach(network, _name(anatomy.tensors[0].path, prefix).split(".")[:-1])
    shapes = {t.path: t.shape for t in anatomy.tensors}
    for site in anatomy.sites(anatomy.projections):
        _put(network, _name(site.path, prefix), _projection(site, shapes[f"{site.path}.weight"]))
    for tensor in anatomy.tensors:
        _hold(network, _name(tensor.path, prefix), tensor.shape)
    _add_modules(network, anatomy, prefix)
    wanted = {t.address: t.shape for t in anatomy.head_tensors} if head is None else head
    names = {_name(anatomy.path(address), prefix): shape for address, shape in wanted.items()}
    for name, shape in names.items():
        _hold(network, name, shape)
    return BaseModel(network, anatomy, names)


def _add_modules(network: nn.Module, anatomy: Anatomy, prefix: str) -> None:
    """Add the places that hold no parameter of their own: sublayers, their ends, and tied embeddings."""
    named = [n for n in ("attention", "ffn", "embeddings") if n in anatomy.site_names]
    shared = next((t for t in anatomy.tensors if t.site == "embeddings"), None)
    for site in anatomy.sites(named):
        for path in filter(None, (site.path, site.out)):
            module = _reach(network, _name(path, prefix).split("."))
            if site.name == "embeddings" and shared is not None and not module._parameters:
                module.weight = network.get_parameter(_name(shared.path, prefix))


def _projection(site: Site, shape: tuple[int, ...]) -> nn.Module:
    if site.transposed:
        return TransposedLinear(shape[0], shape[1], site.bias)
    return nn.Linear(shape[1], shape[0], bias=site.bias, device=_META)


def _name(path: str, prefix: str) -> str:
    if path.startswith(OUTSIDE):
        return path.removeprefix(OUTSIDE)
    return f"{prefix}.{path}" if prefix else path


def _reach(module: nn.Module, names: list[str]) -> nn.Module:
    """Return the module at a path, with the modules on the way made where there are none."""
    for name in names:
        if name not in module._modules:
            module.add_module(name, nn.Module())
        module = module.get_submodule(name)
    return module


def _put(network: nn.Module, path: str, module: nn.Module) -> None:
    *parents, name = path.split(".")
    _reach(network, parents).add_module(name, module)


def _hold(network: nn.Module, path: str, shape: tuple[int, ...]) -> None:
    *parents, name = path.split(".")
    holder = _reach(network, parents)
    if name not in holder._parameters:
        holder.register_parameter(name, nn.Parameter(torch.empty(shape, device=_META)))
