"""What adapters compute, restated in bare torch, and what enters and leaves a layer of a tiny network."""

from __future__ import annotations

import torch
from tiny import tasks, tiny_base, tiny_batch
from torch.nn import functional as F

from peftcli.base.base_model import BaseModel
from peftcli.delta.delta import Delta, attach
from peftcli.delta.method import Method

LARGE = {
    "model_type": "roberta",
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
PRE_NORM = ("gpt2", "gpt_neo", "opt", "bloom", "llama", "gemma2", "gemma3_text", "phi3", "falcon_mha", "t5", "vit")
POST_NORM = ("bert", "roberta", "electra", "deberta-v2", "distilbert", "bart")
SIDE_BY_SIDE = ("gpt_neox", "falcon", "falcon_new")


def base_of(family: str) -> BaseModel:
    """Return a tiny base for what the family is for."""
    return tiny_base(family, tasks(family)[-1])


def randomised(method: Method, family: str, scale: float = 0.3) -> Delta:
    """Attach a method and give its tensors random numbers."""
    delta = attach((method,), base_of(family), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in delta.parameters.values():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return delta


def bottleneck(block, z, activation=F.relu):
    """U act(D z + b_D) + b_U."""
    down, up = block.bottleneck.down, block.bottleneck.up
    return F.linear(activation(F.linear(z, down.weight, down.bias)), up.weight, up.bias)


@torch.no_grad()
def first_layer(base: BaseModel, family: str) -> torch.Tensor:
    """Return what leaves layer 0 (of the first stack)."""
    found = []
    layer = base.module(base.layer(base.sites(("ffn",), 0)[0]))
    handle = layer.register_forward_hook(lambda *args: found.append(args[2]))
    base.network(**tiny_batch(family))
    handle.remove()
    out = found[0]
    return out if isinstance(out, torch.Tensor) else out[0]


def block_at(delta: Delta, end: str):
    """Return the block whose address ends so: the first in the network."""
    return [b for _, b in delta.blocks() if b.address.endswith(end)][-1]
