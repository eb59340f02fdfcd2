"""LoRA: W' = W + (alpha / rank) B A.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, arXiv:2106.09685, section 4.1. In a fused
projection every part (W_q, W_v) has an A and a B of its own, as if it were not fused. Two variants are settings:
rsLoRA (Kalajdzievski 2023, arXiv:2312.03732) scales by alpha / sqrt(rank), and LoRA+ (Hayou et al. 2024,
arXiv:2402.12354) trains B at a higher rate than A. The token embeddings move by (alpha / rank) (B A)^T, where A has a
column for every token and starts at zero in place of B; ids are not dropped. A tied head stays the base model's.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeVar

from pydantic import Field

from peftcli.delta.method import Card, Method, PeftLayout
from peftcli.delta.peft_form import names_and_layers
from peftcli.delta.peft_pairs import stored_pairs
from peftcli.delta.targets import Layers, Tables
from peftcli.errors import MethodError
from peftcli.recipe.recipe import PositiveFloat, PositiveInt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.base.sites import Site
    from peftcli.blocks.low_rank import LowRank
    from peftcli.delta.delta import Delta
    from peftcli.delta.peft_form import PeftForm

LowRankBlock = TypeVar("LowRankBlock", bound="LowRank")
LORA_PLUS = 5e-5  # A's rate for RoBERTa in the LoRA+ authors' code
LORA_PLUS_EMBEDDINGS = 1e-6  # and that of the token embeddings in their optimizer
EMBEDDINGS = "embeddings"


class Lora(Method):
    """LoRA: W' = W + (alpha / rank) B A, with A (rank, d_in) and B (d_out, rank) trained."""

    card = Card(
        title="Low-rank adaptation",
        family="reparameterisation",
        paper="2106.09685",
        size_setting="rank",
        mergeable=True,
        starts_at_base=True,
        learning_rate=5e-4,
        source="RoBERTa-base on GLUE, appendix D.1; GPT-2 and GPT-3 use 2e-4; with rate_ratio the LoRA+ authors' code",
        traps=("rank must not exceed the narrowest target matrix", "the first step moves only B: A's gradient is zero"),
    )

    rank: PositiveInt = 8
    """Of the update; the published default."""
    alpha: PositiveFloat = 16.0
    """The update is scaled by alpha / rank."""
    scaling: Literal["alpha_over_rank", "rank_stabilised"] = "alpha_over_rank"
    """rank_stabilised divides alpha by sqrt(rank) instead, so that a high rank still learns (rsLoRA)."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability with which an input of the branch is dropped in training."""
    rate_ratio: Annotated[float, Field(ge=1)] = 1.0
    """B's learning rate over A's, which is the run's; above 1 this is LoRA+, whose rule of thumb is 16.

    As in the authors' optimizer, the token embeddings are then slow: at 0.02 of the run's rate (1e-6 beside 5e-5).
    """
    target_modules: Literal["all-linear"] | Tables = ("W_q", "W_v")
    """What moves: projections, and embeddings where they are named; all-linear is every projection and nothing else."""
    layers: Layers = "all"
    """The layers whose matrices move: all, 8-11, [0, 5] or top:4."""

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return self.alpha / (self.rank if self.scaling == "alpha_over_rank" else math.sqrt(self.rank))

    @property
    def learning_rate(self) -> float:
        """A's rate: LoRA+ lowers it, as B's is a multiple of it."""
        return LORA_PLUS if self.rate_ratio > 1 else self.card.learning_rate

    def rate_factor(self, name: str) -> float:
        if name.startswith("embedding_"):
            return LORA_PLUS_EMBEDDINGS / LORA_PLUS if self.rate_ratio > 1 else 1.0
        return self.rate_ratio if name == "B" else 1.0

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        return {s.address: self.rank * (s.d_in + s.d_out) for s in self.sites(anatomy)}

    def attach(self, base: BaseModel) -> None:
        for site in self.sites(base.anatomy):
            if site.name == EMBEDDINGS:
                from peftcli.blocks.embedding_low_rank import attach_to_table

                attach_to_table(base, site, rank=self.rank, scale=self.scale)
            else:
                base.replace(site, self.block(base.module(site), site))

    def block(self, wrapped: nn.Module, site: Site) -> LowRank:
        """Return the block that moves the weight of ``site``."""
        from peftcli.blocks.low_rank import LowRank  # torch only when something is computed

        return LowRank(wrapped, site, rank=self.rank, scale=self.scale, dropout=self.dropout)

    def sites(self, anatomy: Anatomy) -> list[Site]:
        """Return the sites that move; the token embeddings once, as a matrix that is stored transposed.

        Raises:
            MethodError: The rank is larger than one of the matrices.
        """
        names = anatomy.projections if self.target_modules == "all-linear" else self.target_modules
        named = anatomy.sites(names, self.layers)
        tables = [replace(s, transposed=True, stacked=False) for s in named if s.name == EMBEDDINGS]
        sites = [*tables[:1], *(s for s in named if s.name != EMBEDDINGS)]
        narrow = min(sites, key=lambda s: min(s.d_in, s.d_out))
        if self.rank > min(narrow.d_in, narrow.d_out):
            raise MethodError(
                f"method.rank is {self.rank}, but {narrow} of {anatomy.family} is {narrow.d_out} x {narrow.d_in}",
                hint=f"Write a rank of at most {min(narrow.d_in, narrow.d_out)}.",
            )
        return sites

    def peft_layout(self, delta: Delta) -> PeftLayout | str:
        """Return peft's LORA form: the parts of a fused module become one LoRA of their summed rank, exactly."""
        from peftcli.blocks.low_rank import LowRank

        modules, tables = by_module(delta, LowRank), _tables(delta)
        tensors = {f"base_model.model.{name}": tensor for name, tensor in tables.items()}
        for path, parts in modules.items():
            A, B = _joined(parts, delta.base.output_rows(parts[0].site))
            tensors[f"base_model.model.{path}.lora_A.weight"] = A
            tensors[f"base_model.model.{path}.lora_B.weight"] = B
        joined = {path: len(parts) for path, parts in modules.items() if len(parts) > 1}
        stabilised = self.scaling == "rank_stabilised"
        config = {
            "peft_type": "LORA",
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "target_modules": sorted({*modules, *(name.rpartition(".")[0] for name in tables)}),
            "rank_pattern": {path: parts * self.rank for path, parts in joined.items()},
            # So that peft's scale, by the summed rank, stays what it is here.
            "alpha_pattern": {p: self.alpha * (math.sqrt(n) if stabilised else n) for p, n in joined.items()},
            "fan_in_fan_out": any(parts[0].site.transposed for parts in modules.values()),
            "bias": "none",
            "init_lora_weights": True,
            "use_rslora": stabilised,
            "use_dora": False,
        }
        return PeftLayout(config=config, tensors=tensors, exact=not joined and len(tables) <= len("AB"))

    @classmethod
    def from_peft(cls, form: PeftForm, anatomy: Anatomy) -> Self | None:
        """Return the settings of a stored LoRA; methods that are built on this one are other forms."""
        plain = cls is Lora and form.kind == "LORA" and not form.config.get("use_dora")
        return cls._stored(form, anatomy) if plain else None

    @classmethod
    def _stored(cls, form: PeftForm, anatomy: Anatomy) -> Self:
        pairs, said = stored_pairs(form, anatomy), float(form.config["lora_alpha"])
        names, layers = names_and_layers(form, pairs.sites, anatomy)
        stabilised = bool(form.config.get("use_rslora"))
        divisor = math.sqrt(pairs.rank) if stabilised else pairs.rank
        alpha = said if math.isclose(said / divisor, pairs.scale, rel_tol=1e-12) else pairs.scale * divisor
        scaling = "rank_stabilised" if stabilised else "alpha_over_rank"
        settings = {"rank": pairs.rank, "alpha": alpha, "scaling": scaling, "target_modules": names, "layers": layers}
        return cls.model_validate(settings)

    def take_peft(self, form: PeftForm, delta: Delta) -> dict[str, Tensor]:
        from peftcli.blocks.low_rank import LowRank

        stored = stored_pairs(form, delta.base.anatomy).pairs
        found = {}
        for parts in by_module(delta, LowRank).values():
            pairs = {site.address: pair for site, pair in stored[parts[0].site.path]}
            for part in parts:
                found[part.address_of("A")], found[part.address_of("B")] = pairs[part.site.address]
        return found


def by_module(delta: Delta, kind: type[LowRankBlock]) -> dict[str, list[LowRankBlock]]:
    """Return the blocks of a kind by the path of the module they stand around: several where it is fused."""
    modules: dict[str, list[LowRankBlock]] = {}
    for _, block in reversed(delta.blocks()):
        if isinstance(block, kind):
            modules.setdefault(delta.base.path(block.site), []).append(block)
    return modules


def _tables(delta: Delta) -> dict[str, Tensor]:
    """Return what peft calls the matrices of token embeddings: one pair for each place where tokens are looked up."""
    from peftcli.blocks.embedding_low_rank import EmbeddingLowRank

    found = {}
    for _, block in delta.blocks():
        if isinstance(block, EmbeddingLowRank):
            for site in delta.base.sites((EMBEDDINGS,)):
                path = delta.base.path(site)
                found[f"{path}.lora_embedding_A"] = block.embedding_A.detach().cpu().clone()
                found[f"{path}.lora_embedding_B"] = block.embedding_B.detach().cpu().clone()
    return found


def _joined(parts: Sequence[LowRank], d_out: int) -> tuple[Tensor, Tensor]:
    """Return one A (parts * rank, d_in) and one B (every output row, parts * rank) that compute all ``parts``."""
    import torch

    A = torch.cat([p.A.detach().cpu() for p in parts])
    B = torch.zeros(d_out, len(A))
    column = 0
    for part in parts:
        own = part.B.detach().cpu()
        offset = 0
        for start, stop in part.site.rows or ((0, d_out),):
            B[start:stop, column : column + own.shape[1]] = own[offset : offset + stop - start]
            offset += stop - start
        column += own.shape[1]
    return A, B
