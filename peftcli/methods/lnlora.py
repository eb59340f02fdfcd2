"""LNLoRA, a LoRA layer with a LayerNorm in it: y = W x + b + (alpha / rank) B A LN(x).

Lectures name it without a formula and no paper defines it, so all three forms are our readings; the default is the
first: ``branch_in`` normalises what enters the branch, ``bottleneck`` what lies between A and B, and ``plus_ln`` is
LoRA while the norms of the same layers train too. A norm on the sum would not begin at the base model: there is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from peftcli.delta.method import Card, PeftLayout
from peftcli.delta.targets import Projections
from peftcli.methods.lora import Lora

if TYPE_CHECKING:
    from torch import nn

    from peftcli.base.anatomy import Anatomy, BaseTensor
    from peftcli.base.base_model import BaseModel
    from peftcli.base.sites import Site
    from peftcli.blocks.low_rank import LowRank
    from peftcli.delta.delta import Delta

NARROWEST = 3  # of two numbers, a LayerNorm keeps only which is larger


class Lnlora(Lora):
    """LoRA with a LayerNorm in its branch: y = W x + b + (alpha / rank) B A LN(x); a reading of ours."""

    card = Card(
        title="LoRA with LayerNorm (our reading)",
        family="reparameterisation",
        paper=None,
        size_setting="rank",
        mergeable=False,
        starts_at_base=True,
        learning_rate=5e-4,
        source="as LoRA",
        traps=(
            "a norm in the branch depends on the input: no weight computes the same",
            "plus_ln has none there: it can be merged",
        ),
    )

    form: Literal["branch_in", "bottleneck", "plus_ln"] = "branch_in"
    """What is normalised: what enters the branch, what lies between A and B, or nothing (the layers' norms train)."""

    @model_validator(mode="after")
    def _wide_enough(self) -> Self:
        if self.form == "bottleneck" and self.rank < NARROWEST:
            what = f"a LayerNorm over {self.rank} numbers leaves nothing to learn from"
            hint = f"Write rank: {NARROWEST} or more, or form: branch_in."
            raise PydanticCustomError("narrow_norm", "{what}", {"what": what, "hint": hint})
        return self

    @property
    def mergeable(self) -> bool:
        return self.form == "plus_ln"

    target_modules: Literal["all-linear"] | Projections = ("W_q", "W_v")
    """The weight matrices that move; all-linear is every projection of attention and FFN, never head or embeddings."""

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        low_rank = super().sizes(anatomy)
        if self.form == "plus_ln":
            return low_rank | {anatomy.address(t.path): t.size for t in self._norms(anatomy)}
        narrow = self.form == "bottleneck"
        return {s.address: low_rank[s.address] + 2 * (self.rank if narrow else s.d_in) for s in self.sites(anatomy)}

    def attach(self, base: BaseModel) -> None:
        super().attach(base)
        if self.form == "plus_ln":
            for tensor in self._norms(base.anatomy):
                base.tensor(tensor.path).requires_grad_(True)

    def block(self, wrapped: nn.Module, site: Site) -> LowRank:
        from peftcli.blocks.normed_low_rank import (
            NormedBottleneck,
            NormedInput,
        )  # torch only when something is computed

        if self.form == "plus_ln":
            return super().block(wrapped, site)
        kind = NormedInput if self.form == "branch_in" else NormedBottleneck
        return kind(wrapped, site, rank=self.rank, scale=self.scale, dropout=self.dropout)

    def peft_layout(self, delta: Delta) -> PeftLayout | str:
        """Return why there is none."""
        return "Hugging Face peft has no LoRA with a LayerNorm"

    def _norms(self, anatomy: Anatomy) -> list[BaseTensor]:
        """Return the norms of the layers whose matrices move."""
        layers = {(s.stack, s.layer) for s in self.sites(anatomy)}
        return [t for t in anatomy.norms if (t.stack, t.layer) in layers]
