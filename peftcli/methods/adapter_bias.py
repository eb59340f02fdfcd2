"""AdapterBias: h <- h + (alpha . u + c) v, where u is what the FFN computes inside and h what it gives.

Fu et al., "AdapterBias: Parameter-efficient Token-dependent Representation Shift for Adapters in NLP Tasks", 2022,
arXiv:2205.00305. It is a change of W_down by v alpha^T and of its bias by c v. Dropout behind the FFN acts
on the shift too; in the authors' code it does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from peftcli.delta.method import Card, Method
from peftcli.delta.placements import sublayers
from peftcli.delta.targets import Layers

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy, BaseTensor
    from peftcli.base.base_model import BaseModel
    from peftcli.base.sites import Site


class AdapterBias(Method):
    """AdapterBias: one vector per layer, added as far as each token asks for; some norms train too."""

    card = Card(
        title="AdapterBias",
        family="addition",
        paper="2205.00305",
        size_setting=None,
        mergeable=True,
        starts_at_base=True,
        learning_rate=1e-4,
        source="BERT on GLUE, the authors' code",
        traps=("a merge needs a bias of W_down to hold c v: LLaMA and T5 have none",),
    )

    input: Literal["ffn_inner", "residual"] = "ffn_inner"
    """What sets the length: the FFN's inside, as published; or what enters it, then without c and not mergeable."""
    share_alpha: bool = False
    """Whether the layers of a stack share alpha and c."""
    train_norms: bool = True
    """Whether the norms of the FFNs and those outside the layers (of BERT's embeddings) train too, as published."""
    layers: Layers = "all"
    """The layers that shift: all, 8-11, [0, 5] or top:4."""

    @model_validator(mode="after")
    def _alpha_is_shared_inside(self) -> Self:
        if self.share_alpha and self.input == "residual":
            hint = "Write share_alpha: false, or input: ffn_inner."
            raise PydanticCustomError("share_alpha", "only alphas of the FFN's inside are shared", {"hint": hint})
        return self

    @property
    def mergeable(self) -> bool:
        return self.input == "ffn_inner"

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        norms = {anatomy.address(t.path): t.size for t in self._norms(anatomy)}
        sites = self._sites(anatomy)
        if self.input == "residual":
            return {s.address: s.d_in + s.d_out for s in sites} | norms
        if self.share_alpha:
            return {f"shared.{s.stack}": s.d_in + 1 for s in sites} | {s.address: s.d_out for s in sites} | norms
        return {s.address: s.d_in + 1 + s.d_out for s in sites} | norms

    def attach(self, base: BaseModel) -> None:
        sites = self._sites(base.anatomy)
        if self.input == "residual":
            _shift_beside(base, sites)
        else:
            _shift_inside(base, sites, share=self.share_alpha)
        for tensor in self._norms(base.anatomy):
            base.tensor(tensor.path).requires_grad_(True)

    def _sites(self, anatomy: Anatomy) -> list[Site]:
        if self.input == "residual":
            return sublayers(anatomy, ("after_ffn",), self.layers)
        return anatomy.sites(("W_down",), self.layers)

    def _norms(self, anatomy: Anatomy) -> list[BaseTensor]:
        if not self.train_norms:
            return []
        sites = anatomy.sites(("ffn_norm",), self.layers) if "ffn_norm" in anatomy.site_names else []
        own = {s.path for s in sites}
        return [t for t in anatomy.norms if t.layer is None or t.path.rpartition(".")[0] in own]


def _shift_inside(base: BaseModel, sites: list[Site], *, share: bool) -> None:
    from torch import nn

    from peftcli.blocks.token_shift import TokenShift, TokenWeight

    widths = {s.stack: s.d_in for s in sites}
    shared = nn.ModuleDict({stack: TokenWeight(d_in) for stack, d_in in widths.items()}) if share else None
    for site in sites:
        base.replace(site, TokenShift(base.module(site), site, shared))


def _shift_beside(base: BaseModel, sites: list[Site]) -> None:
    from peftcli.blocks.adapters import beside_sublayers
    from peftcli.blocks.bottleneck import rank_one

    beside_sublayers(base, sites, lambda s: rank_one(s.d_out), normed=False)
