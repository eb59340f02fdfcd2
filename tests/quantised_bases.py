"""Tiny base models whose projections are held quantised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tiny import LABELS, tiny_base, tiny_config, tiny_network

if TYPE_CHECKING:
    from peftcli.base.base_model import BaseModel


def quantised_base(family: str, task: str | None, form: Any, *, dtype: torch.dtype = torch.float32) -> BaseModel:
    """Return a tiny base model with every projection in a quantised layer."""
    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel, find_prefix
    from peftcli.base.quantise import quantised_paths
    from peftcli.base.quantised_linear import quantised

    anatomy = Anatomy.of(tiny_config(family), task=task, labels=LABELS)
    network = tiny_network(family, task).to(dtype)
    prefix = find_prefix(dict(network.named_parameters()), anatomy)
    for path, transposed in quantised_paths(anatomy).items():
        name = (f"{prefix}.{path}" if prefix else path).removesuffix(".weight")
        layer: Any = network.get_submodule(name)
        network.set_submodule(name, quantised(layer.weight, form, bias=layer.bias, transposed=transposed))
    return BaseModel(network, anatomy, head=[t.path.removeprefix("^") for t in anatomy.head_tensors])


def dequantised_twin(base: BaseModel, family: str, task: str | None) -> BaseModel:
    """Return a plain base model that computes with the numbers that ``base`` unpacks."""
    twin = tiny_base(family, task)
    twin.network.to(next(iter(base.parameters.values())).dtype)
    with torch.no_grad():
        for name, layer in base.quantised.items():
            twin.parameters[name].copy_(layer.weight)
    return twin
