"""UniPELT: a prefix, Pfeiffer's adapter and LoRA together, each behind a gate that looks at the example.

Mao et al., "UniPELT: A Unified Framework for Parameter-Efficient Language Model Tuning", 2021, arXiv:2110.07577.
A gate is the mean over an example's tokens of sigmoid(w x + b), where x is what the gated part reads; keys
and values of a prefix share one, W_q and W_v have one each, and LoRA's stands where alpha / rank would.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field

from peftcli.delta.method import Card, Method
from peftcli.delta.placements import Activation, sublayers
from peftcli.delta.targets import Layers
from peftcli.errors import MethodError
from peftcli.recipe.recipe import PositiveInt

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.base.sites import Site

ENCODERS = ("encoder", "vision")


class Unipelt(Method):
    """UniPELT: prefix, Pfeiffer's adapter and LoRA on W_q and W_v, each times a gate g(x) in (0, 1) per example."""

    card = Card(
        title="UniPELT (prefix, adapter and LoRA, gated)",
        family="combination",
        paper="2110.07577",
        size_setting="bottleneck",
        mergeable=False,
        starts_at_base=False,
        learning_rate=5e-4,
        source="BERT-base on GLUE, as we recall the paper",
        traps=(
            "the gates average over padding too, as in the authors' code; set mask to leave it out",
            "a gate sees all tokens of an example: in a causal model, those that come later as well",
        ),
    )

    prefix_length: PositiveInt = 10
    """Trained positions per layer."""
    reparameterise: bool = True
    """Train the prefix through a small network that is dropped at the end; false trains keys and values flat."""
    hidden: PositiveInt = 512
    """Width of that network."""
    bottleneck: PositiveInt = 48
    """Width inside the adapter."""
    activation: Activation = "relu"
    """Inside the adapter."""
    rank: PositiveInt = 8
    """Of LoRA's update."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability with which an input of LoRA's branch is dropped in training."""
    mask: bool = False
    """Whether a gate averages over the real tokens alone; false averages over padding too, as published."""
    layers: Layers = "all"
    """The layers that get all three: all, 8-11, [0, 5] or top:4."""

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        a, r = self.bottleneck, self.rank
        sizes = {}
        for s in self._attentions(anatomy):
            assert s.heads is not None
            sizes[s.address] = 2 * self.prefix_length * s.heads.key_value * s.heads.width + s.d_in + 1
        sizes |= {s.address: r * (s.d_in + s.d_out) + s.d_in + 1 for s in self._projections(anatomy)}
        sizes |= {s.address: 2 * s.d_out * a + a + s.d_out + s.d_out + 1 for s in self._ffns(anatomy)}
        return sizes

    def attach(self, base: BaseModel) -> None:
        from peftcli.blocks import adapters, attention_prefix, gates  # torch only when something is computed
        from peftcli.blocks.linear_maps import Dense

        anatomy, a = base.anatomy, self.bottleneck
        attentions = self._attentions(anatomy)
        real = gates.RealTokens(base) if self.mask else None
        length = self.prefix_length
        encoder = attention_prefix.PrefixEncoder(length, anatomy.width, self.hidden) if self.reparameterise else None
        for site in attentions:
            gate = gates.Gate(site.d_in, real)
            prefix = gates.GatedPrefix(base.module(site), site, length=length, encoder=encoder, gate=gate)
            base.replace(site, prefix)
        attention_prefix.install(base.network)
        for site in self._projections(anatomy):
            gate = gates.Gate(site.d_in, real)
            delta = gates.GatedLowRank(base.module(site), site, rank=self.rank, dropout=self.dropout, gate=gate)
            base.replace(site, delta)
        adapters.after_residual_adds(
            base,
            self._ffns(anatomy),
            lambda s: gates.GatedBottleneck(
                Dense(s.d_out, a, fill="normal"),
                Dense(a, s.d_out, fill="zero"),
                activation=self.activation,
                gate=gates.Gate(s.d_out, real),
            ),
        )

    def packed(self) -> Self:
        return self.model_copy(update={"reparameterise": False})

    def _attentions(self, anatomy: Anatomy) -> list[Site]:
        if anatomy.arch not in ENCODERS:
            raise MethodError(
                f"unipelt's gates average over all tokens, and {anatomy.family} may not see those that come later",
                hint="Use a stack of prefix, pfeiffer and lora there: the same parts without gates.",
            )
        if not anatomy.attention_interface:
            raise MethodError(
                f"unipelt has no way into the attention of {anatomy.family}, which computes it by code of its own",
                hint="Use a stack of pfeiffer and lora there.",
            )
        return anatomy.sites(("attention",), self.layers)

    def _projections(self, anatomy: Anatomy) -> list[Site]:
        sites = anatomy.sites(("W_q", "W_v"), self.layers)
        narrow = min(min(s.d_in, s.d_out) for s in sites)
        if self.rank > narrow:
            raise MethodError(
                f"method.rank is {self.rank}, but a projection of {anatomy.family} is only {narrow} wide",
                hint=f"Write a rank of at most {narrow}.",
            )
        return sites

    def _ffns(self, anatomy: Anatomy) -> list[Site]:
        return sublayers(anatomy, ("after_ffn",), self.layers)
