"""The half of scripts/oracle_adapters.py that runs beside the AdapterHub library, in its own environment.

    python scripts/oracle_adapters_theirs.py FOLDER...

Every folder holds a network, ``inputs.safetensors`` and ``request.json``. Written there: ``theirs.safetensors`` with
the outputs of the network alone and of the adapted one, the random tensors of the delta, and the losses of the steps
that are asked for; and ``order.json``, the names of these tensors in the order of the network. peftcli is not imported.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import adapters
import adapters.composition
import torch
import transformers
from safetensors.torch import load_file, save_file

AUTO = {
    None: transformers.AutoModel,
    "classification": transformers.AutoModelForSequenceClassification,
    "causal-lm": transformers.AutoModelForCausalLM,
}
DEVIATION = 0.3
NAMES = ("one", "two")


def answer(folder: Path) -> None:
    """Compute what a folder asks for."""
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    inputs = load_file(folder / "inputs.safetensors")
    target = inputs.pop("target")
    # With sdpa and a mask, a prefix of theirs is lost on decoders.
    network = AUTO[request["task"]].from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        found = {"plain": output(network(**inputs))}
    delta = attach(network, request)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in delta.values():
            parameter.copy_(DEVIATION * torch.randn(parameter.shape, generator=generator))
        found["adapted"] = output(network(**inputs))
    found |= {f"delta.{name}": p.detach().clone() for name, p in delta.items()}
    if request["steps"]:
        found["losses"] = train(network, delta, inputs, target, request["steps"])
    save_file({n: t.contiguous() for n, t in found.items()}, folder / "theirs.safetensors")
    (folder / "order.json").write_text(json.dumps(list(delta)), encoding="utf-8")


def attach(network: torch.nn.Module, request: dict[str, Any]) -> dict[str, torch.nn.Parameter]:
    """Add what is asked for and return its tensors by name; the head is none of them."""
    configurations = [getattr(adapters, kind)(**settings) for kind, settings in request["configurations"]]
    adapters.init(network)
    before = {id(p) for p in network.parameters()}
    if request["fused"]:
        for name, configuration in zip(NAMES, configurations, strict=True):
            network.add_adapter(name, config=configuration)
        mixture = adapters.composition.Fuse(*NAMES)
        network.add_adapter_fusion(mixture)
        network.train_adapter_fusion(mixture)
    else:
        union = adapters.ConfigUnion(*configurations) if configurations[1:] else configurations[0]
        network.add_adapter(NAMES[0], config=union)
        network.train_adapter(NAMES[0])
    network.eval()
    return {n: p for n, p in network.named_parameters() if id(p) not in before}


def train(
    network: torch.nn.Module,
    delta: dict[str, torch.nn.Parameter],
    inputs: dict[str, torch.Tensor],
    target: torch.Tensor,
    steps: int,
) -> torch.Tensor:
    """Take AdamW steps and return their losses."""
    optimizer = torch.optim.AdamW(delta.values(), lr=1e-2, weight_decay=0.1)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (output(network(**inputs)) - target).pow(2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def output(out: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the logits, or what leaves a bare network."""
    return out["logits"] if "logits" in out else out["last_hidden_state"]


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # what they say of each other is no concern of the comparison
    for path in sys.argv[1:]:
        answer(Path(path))
