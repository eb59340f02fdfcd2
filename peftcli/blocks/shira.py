"""Sparse changes of linear weights as Hugging Face peft's SHIRA stores them: values beside rows and columns."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from peftcli.blocks.sparse import Sparse
from peftcli.blocks.tensor_change import TensorChange
from peftcli.delta.block import innermost
from peftcli.delta.delta import Delta
from peftcli.delta.method import PeftLayout

Places = dict[str, tuple[Sparse, nn.Linear]]


def shira_layout(delta: Delta) -> PeftLayout | str:
    """Return the sparse change that ``delta`` is, or why SHIRA has no form for it.

    SHIRA gives every weight as many entries as a LoRA of one rank would have numbers, so each change is filled up
    with zeros at places that it left alone.
    """
    found = _linear_changes(delta)
    if isinstance(found, str):
        return found
    rank = max(-(-len(change.indices) // sum(module.weight.shape)) for change, module in found.values())
    full = [p for p, (_, m) in found.items() if rank * sum(m.weight.shape) > m.weight.numel()]
    if full:
        return f"Hugging Face peft's SHIRA has no room for as many entries in {full[0]} as another weight has"
    tensors: dict[str, Tensor] = {}
    for path, (change, module) in found.items():
        indices, values = _padded(change, rank * sum(module.weight.shape), module.weight.numel())
        width = module.in_features
        tensors[f"base_model.model.{path}.shira_indices"] = torch.stack([indices // width, indices % width]).int()
        tensors[f"base_model.model.{path}.shira_weight"] = values
    config = {
        "peft_type": "SHIRA",
        "r": rank,
        "mask_type": "random",
        "random_seed": 0,
        "target_modules": sorted(found),
        "fan_in_fan_out": False,
        "init_weights": True,
    }
    return PeftLayout(config=config, tensors=tensors, exact=False)


def _linear_changes(delta: Delta) -> Places | str:
    found: Places = {}
    for path, block in reversed(delta.blocks()):
        assert isinstance(block, TensorChange)
        module = innermost(block)
        plain = ".".join(part for part in path.split(".") if part != "wrapped")
        for name, change in block.changes.items():
            assert isinstance(change, Sparse), "a finished change is sparse"
            if name != "weight" or not isinstance(module, nn.Linear):
                what = f"and {plain}.{name}, which changed too, is none"
                return f"Hugging Face peft's sparse form (SHIRA) is for weights of linear layers, {what}"
            found[plain] = (change, module)
    return found


def _padded(change: Sparse, number: int, size: int) -> tuple[Tensor, Tensor]:
    """Return ``number`` rising indices with their values: the change's own, and zeros at the first free places."""
    taken = torch.zeros(size, dtype=torch.bool)
    values = torch.zeros(size)
    own = change.indices.cpu()
    taken[own] = True
    values[own] = change.values.detach().cpu()
    taken[(~taken).nonzero().view(-1)[: number - len(own)]] = True
    indices = taken.nonzero().view(-1)
    return indices, values[indices]
