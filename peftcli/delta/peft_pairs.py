"""The pairs A and B of a stored LoRA, taken apart: which projections they move, with which rank and scale.

Hugging Face peft puts one pair around a fused projection, and peftcli one around each of its parts. A pair whose B
moves each part by columns of its own is the pairs of those parts; any other is the same A before all parts, with the
rows of B that are theirs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from peftcli.base.anatomy import Anatomy
    from peftcli.base.sites import Site
    from peftcli.delta.peft_form import PeftForm

Pair = tuple["Tensor", "Tensor"]


@dataclass(frozen=True, kw_only=True)
class StoredPairs:
    """What all pairs of a stored LoRA have in common, and the pair of every projection that moves.

    Attributes:
        scale: What B A is multiplied by.
        pairs: By path of the module: its sites, each with A (rank, d_in) and B (d_out, rank).
    """

    rank: int
    scale: float
    pairs: Mapping[str, Sequence[tuple[Site, Pair]]]

    @property
    def sites(self) -> list[Site]:
        """The projections that move."""
        return [site for parts in self.pairs.values() for site, _ in parts]


def stored_pairs(form: PeftForm, anatomy: Anatomy) -> StoredPairs:
    """Take the pairs of ``form`` apart.

    Raises:
        ArtifactError: Tensors are missing or of another shape, or modules have different ranks or scales.
    """
    found: dict[str, list[tuple[Site, Pair]]] = {}
    scales: dict[str, float] = {}
    for path, sites in form.sites(anatomy).items():
        A, B = _checked(form, path, sites)
        alpha = form.setting("alpha_pattern", "lora_alpha", path)
        scales[path] = alpha / (math.sqrt(len(A)) if form.config.get("use_rslora") else len(A))
        found[path] = _parts(A, B, sites, form.config["r"])
    if not found:
        raise form.refuse("it holds no LoRA")
    ranks = {len(A) for parts in found.values() for _, (A, _) in parts}
    if len(ranks) > 1:
        raise form.refuse(
            f"its modules have the ranks {', '.join(map(str, sorted(ranks)))}, and a lora of peftcli has one"
        )
    scale = next(iter(scales.values()))
    other = next((p for p, s in scales.items() if not math.isclose(s, scale, rel_tol=1e-12)), None)
    if other:
        raise form.refuse(
            f"alpha_pattern scales {form.names[other]} in another way, and a lora of peftcli has one scale"
        )
    return StoredPairs(rank=ranks.pop(), scale=scale, pairs=found)


def _checked(form: PeftForm, path: str, sites: Sequence[Site]) -> Pair:
    """Return A and B of a module whose shapes are those of the base model and of the config."""
    name, tensors = form.names[path], form.modules[path]
    if not {"lora_A", "lora_B"} <= tensors.keys():
        raise form.refuse(f"{name} has lora_A or lora_B, but not both")
    A, B = tensors["lora_A"], tensors["lora_B"]
    rank = form.setting("rank_pattern", "r", path)
    wanted = ((rank, sites[0].d_in), (sum(s.d_out for s in sites), rank))
    if (tuple(A.shape), tuple(B.shape)) != wanted:
        raise form.refuse(
            f"the LoRA of {name} is {tuple(A.shape)} and {tuple(B.shape)}, but rank {rank} on this base model makes "
            f"{wanted[0]} and {wanted[1]}",
            "Look whether this is the base model that the delta was trained on.",
        )
    return A, B


def _parts(A: Tensor, B: Tensor, sites: Sequence[Site], rank: int) -> list[tuple[Site, Pair]]:
    if sites[0].rows is None:
        return [(sites[0], (A, B))]
    number = len(A) // rank
    if len(A) == number * rank and number <= len(sites):
        moved = [_moved(B[:, i * rank : (i + 1) * rank], sites) for i in range(number)]
        own = [one[0] for one in moved if len(one) == 1]
        if all(len(one) <= 1 for one in moved) and len(set(own)) == len(own):
            still = [s for s in sites if s not in own]
            chosen = [one[0] if one else still.pop(0) for one in moved]
            pieces = [slice(i * rank, (i + 1) * rank) for i in range(number)]
            found = {
                s: (A[p].contiguous(), rows_of(B, s)[:, p].contiguous()) for s, p in zip(chosen, pieces, strict=True)
            }
            return [(s, found[s]) for s in sites if s in found]
    return [(s, (A.clone(), rows_of(B, s))) for s in sites]


def _moved(columns: Tensor, sites: Sequence[Site]) -> list[Site]:
    return [s for s in sites if bool(rows_of(columns, s).any())]


def rows_of(tensor: Tensor, site: Site) -> Tensor:
    """Return those rows of a fused projection's tensor that are one part's: a copy."""
    if site.rows is None:
        return tensor.clone()
    import torch

    return torch.cat([tensor[start:stop] for start, stop in site.rows])
