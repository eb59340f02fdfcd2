"""A LoRA in the one form that peft and the servers read alike: one rank, scale 1, every layer.

Servers differ in what they ignore: rsLoRA's scale, ranks and alphas of single modules, a kind of module that one layer
lacks. So the scale is folded into B, every pair is filled up with zeros to one rank, and absent pairs are zero.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch

from peftcli.artifact.artifact import Artifact
from peftcli.artifact.exports import CONFIG, INNER, TENSORS, Export
from peftcli.artifact.numbers import from_bytes
from peftcli.artifact.tensor_file import TensorFile
from peftcli.base.anatomy import Anatomy
from peftcli.base.networks import anatomy_for
from peftcli.data.tasks import network_of
from peftcli.errors import MethodError
from peftcli.files import read_json

RANKS = (8, 16, 32, 64, 128, 256)  # what servers are compiled for
PAIR = re.compile(r"base_model\.model\.(?P<path>.+)\.lora_(?P<letter>[AB])\.weight")

Pairs = dict[str, dict[str, torch.Tensor]]


def portable(artifact: Artifact) -> Export:
    """Return an artifact's LoRA in the portable form; the function stays the same.

    Raises:
        MethodError: It is no LoRA of weights alone, or its rank is larger than what servers take.
    """
    config = read_json(artifact.folder / CONFIG)
    _check(artifact, config)
    pairs = _scaled(artifact, config)
    largest = max(len(pair["A"]) for pair in pairs.values())
    rank = next((r for r in RANKS if r >= largest), None)
    if rank is None:
        raise MethodError(f"its rank is {largest}, and servers take at most {RANKS[-1]}", hint=_instead(artifact))
    anatomy = _anatomy(artifact)
    start = _prefix(pairs, anatomy)
    _complete(pairs, anatomy, start)
    targets = _targets(pairs, anatomy, start)
    tensors = {}
    for path, pair in pairs.items():
        missing = rank - len(pair["A"])
        tensors[f"{INNER}{path}.lora_A.weight"] = torch.nn.functional.pad(pair["A"], (0, 0, 0, missing))
        tensors[f"{INNER}{path}.lora_B.weight"] = torch.nn.functional.pad(pair["B"], (0, missing))
    return Export(kind="converted", config=_config(config, rank, targets), tensors=tensors)


def _check(artifact: Artifact, config: Mapping[str, Any]) -> None:
    found = {
        "a head, and servers generate text with the base model's own": config.get("modules_to_save"),
        "lengths beside the directions (DoRA), which servers refuse": config.get("use_dora"),
        "biases, which servers refuse": config.get("bias", "none") != "none",
        "no LoRA, and servers take nothing else": config["peft_type"] != "LORA",
    }
    why = next((what for what, holds in found.items() if holds), None)
    if why is None:
        with TensorFile(artifact.folder / TENSORS) as file:
            other = next((name for name in sorted(file.entries) if not PAIR.fullmatch(name)), None)
        why = f"{other}, which is no LoRA of a projection" if other else None
    if why:
        methods = " + ".join(m.name for m in artifact.methods)
        raise MethodError(f"{methods} has no portable form: the delta holds {why}", hint=_instead(artifact))


def _instead(artifact: Artifact) -> str:
    if all(m.mergeable for m in artifact.methods):
        return "Use 'peft merge', which writes a plain model that every server loads."
    return "It cannot be merged either; '--to peft' is for Hugging Face peft itself."


def _scaled(artifact: Artifact, config: Mapping[str, Any]) -> Pairs:
    """Return A and B by module, B multiplied with what peft would multiply the product with."""
    pairs: Pairs = {}
    with TensorFile(artifact.folder / TENSORS) as file:
        for name, entry in file.entries.items():
            match = PAIR.fullmatch(name)
            assert match is not None
            tensor = from_bytes(file.read(name), entry.dtype).reshape(entry.shape).float()
            pairs.setdefault(match["path"], {})[match["letter"]] = tensor
    for path, pair in pairs.items():
        alpha, rank = config.get("alpha_pattern", {}).get(path, config["lora_alpha"]), len(pair["A"])
        pair["B"] *= alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return pairs


def _anatomy(artifact: Artifact) -> Anatomy:
    return anatomy_for(artifact.manifest.base.config, *network_of(artifact.manifest.task))


def _complete(pairs: Pairs, anatomy: Anatomy, start: str) -> None:
    """Add pairs of zeros, so that a kind of module that one layer has is there in every layer."""
    shapes = {t.path: t.shape for t in anatomy.tensors}
    sites = anatomy.sites(anatomy.projections)
    kinds = {_kind(s.path) for s in sites if f"{start}{s.path}" in pairs}
    for site in sites:
        if _kind(site.path) in kinds and f"{start}{site.path}" not in pairs:
            stored = shapes[f"{site.path}.weight"]
            d_out = stored[1] if site.transposed else stored[0]
            pairs[f"{start}{site.path}"] = {"A": torch.zeros(1, site.d_in), "B": torch.zeros(d_out, 1)}


def _prefix(pairs: Pairs, anatomy: Anatomy) -> str:
    known = {s.path for s in anatomy.sites(anatomy.projections)}
    starts = (f"{prefix}." if prefix else "" for prefix in anatomy.architecture.prefixes)
    return next(s for s in starts if any(f"{s}{path}" in pairs for path in known))


def _kind(path: str) -> str:
    """Return what a module is called in every layer: its path without the layer's number."""
    return re.sub(r"\.\d+\.", ".*.", path, count=1)


def _targets(pairs: Pairs, anatomy: Anatomy, start: str) -> list[str]:
    """Return the shortest ends of paths that name these modules and no others: c_proj would be two in GPT-2."""
    modules = {start + t.path.removesuffix(".weight") for t in anatomy.tensors if t.path.endswith(".weight")}
    found = set()
    for path in pairs:
        parts = path.split(".")
        ends = (".".join(parts[-depth:]) for depth in range(1, len(parts) + 1))
        found.add(next(e for e in ends if all(m in pairs for m in modules if m.endswith(f".{e}") or m == e)))
    return sorted(found)


def _config(config: Mapping[str, Any], rank: int, targets: list[str]) -> dict[str, Any]:
    kept = ("base_model_name_or_path", "revision", "task_type", "peft_type", "fan_in_fan_out")
    return {
        **{key: config.get(key) for key in kept},
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "target_modules": targets,
        "bias": "none",
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }
