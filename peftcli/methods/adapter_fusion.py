"""AdapterFusion: y = LN(h + sum_i alpha_i W_v u_i + x), a mixture of trained adapters, chosen token by token.

Pfeiffer et al., "AdapterFusion: Non-Destructive Task Composition for Transfer Learning", 2020, arXiv:2005.00247. With
z = LN(h + x) as in Pfeiffer's adapter, u_i = U_i act(D_i z + b_D) + b_U is what adapter i would add, q = W_q z + b_q,
k_i = W_k u_i + b_k and alpha = softmax_i(q . k_i). The adapters, each trained by a run of its own on the same base
model, are frozen and travel in the artifact; W_q, W_k, W_v and the head train.

Where the norms stand before the sublayers, z = h + x and y = z + sum_i alpha_i W_v u_i.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, PrivateAttr, model_validator
from pydantic_core import PydanticCustomError

from peftcli.delta.method import Card, Method, TrainedDelta
from peftcli.delta.placements import Activation, sublayers
from peftcli.delta.targets import Layers
from peftcli.errors import ArtifactError, MethodError
from peftcli.methods.pfeiffer import Pfeiffer
from peftcli.recipe.recipe import PositiveInt, Probability
from peftcli.recipe.settings import IsPath, Settings

if TYPE_CHECKING:
    from torch import Tensor

    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.base.sites import Site
    from peftcli.blocks.bottleneck import Bottleneck
    from peftcli.delta.delta import Delta

FEWEST = 2  # adapters
HINT = "Train some with pfeiffer on this base model, then write method.adapters=[runs/ONE, runs/OTHER]."


class FusedAdapter(Settings):
    """What has to be known of an adapter to build it again."""

    bottleneck: PositiveInt
    """Width inside the adapter."""
    activation: Activation
    """Inside the adapter."""


class AdapterFusion(Method):
    """AdapterFusion: attention over the outputs of frozen Pfeiffer adapters that other runs trained."""

    card = Card(
        title="AdapterFusion",
        family="addition",
        paper="2005.00247",
        size_setting=None,
        mergeable=False,
        starts_at_base=False,
        learning_rate=5e-5,
        source="the paper; value_penalty as we recall the authors' code",
        builds_on=Pfeiffer.name,
        traps=(
            "first train the adapters, each by a run of pfeiffer on the same base model, and name their folders",
            "it trains 3 d^2 + 2 d numbers per layer, many times more than an adapter",
            "the adapters library can divide by a temperature that falls in evaluation too; there is none here",
        ),
    )

    adapters: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...], IsPath(), Field(examples=[["runs/one", "runs/other"]])
    ] = ()
    """Folders of the runs that trained the adapters (or of their deltas), at least two; bottlenecks may differ."""
    placement: Literal["after_ffn", "after_attention"] = "after_ffn"
    """Where the adapters stand; after_ffn is published."""
    layers: Layers = "all"
    """The layers that are fused: all, 8-11, [0, 5] or top:4; in the others no adapter acts."""
    dropout: Probability = 0.0
    """Probability with which the score of an adapter is set to zero in training."""
    value_penalty: Annotated[float, Field(ge=0)] = 0.01
    """Added to the loss: this times the squared distance of every W_v from the identity."""
    fused: tuple[FusedAdapter, ...] = ()
    """Stands in finished deltas, which hold their adapters themselves; a recipe names adapters instead."""
    _trained: tuple[TrainedDelta, ...] = PrivateAttr(default=())

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Self:
        if self.adapters and self.fused:
            what = "method.fused stands in finished deltas, not beside method.adapters"
            raise PydanticCustomError("fused", "{what}", {"what": what, "hint": "Remove fused."})
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        return self.adapters

    def built_on(self, deltas: Sequence[TrainedDelta]) -> Self:
        if len(deltas) < FEWEST:
            what = f"adapter_fusion mixes at least {FEWEST} trained adapters, and method.adapters names {len(deltas)}"
            raise MethodError(what, hint=HINT)
        for n, delta in enumerate(deltas):
            if twin := next((other for other in deltas[:n] if other.identity == delta.identity), None):
                raise ArtifactError(f"holds the same adapters as {twin.folder}", where=delta.folder)
        adapters = [_adapter_of(delta) for delta in deltas]
        shapes = tuple(FusedAdapter(bottleneck=a.bottleneck, activation=a.activation) for a in adapters)
        built = self.model_copy(update={"fused": shapes})
        built._trained = tuple(deltas)
        return built

    def packed(self) -> Self:
        # Validated anew, so that what it was built on stays behind.
        return type(self).model_validate({**dict(self), "adapters": ()})

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        return {s.address: 3 * s.d_out**2 + 2 * s.d_out for s in self._sites(anatomy)}

    def attach(self, base: BaseModel) -> None:
        from peftcli.blocks import adapters, fusion  # torch only when something is computed

        counted_alone = next(iter(base.parameters.values())).is_meta
        if not self.fused and not counted_alone:
            raise MethodError("adapter_fusion has no trained adapters to mix", hint=HINT)
        sites = self._sites(base.anatomy)
        for delta in self._trained:
            _check_sites(delta, base.anatomy, sites)
        adapters.after_residual_adds(
            base, sites, lambda s: fusion.Fusion(s.d_out, self._adapters_at(s), dropout=self.dropout)
        )

    def penalty(self, delta: Delta) -> Tensor | None:
        """Return value_penalty times the squared distances of every W_v from the identity."""
        from peftcli.blocks.adapters import Adapter
        from peftcli.blocks.fusion import Fusion

        if not self.value_penalty:
            return None
        functions = [b.bottleneck for b in delta.blocks_of(self) if isinstance(b, Adapter)]
        distances = [f.distance() for f in functions if isinstance(f, Fusion)]
        return self.value_penalty * sum(distances[1:], start=distances[0])

    def _sites(self, anatomy: Anatomy) -> list[Site]:
        return sublayers(anatomy, (self.placement,), self.layers)

    def _adapters_at(self, site: Site) -> list[Bottleneck]:
        """Return the adapters of one place; those that an artifact will bring add nothing yet."""
        import torch

        from peftcli.blocks.bottleneck import dense

        found = []
        for n, shape in enumerate(self.fused):
            adapter = dense((shape.bottleneck, site.d_out), activation=shape.activation, start="zero_up")
            adapter.initialise(torch.Generator())
            if self._trained:
                _fill(adapter, self._trained[n], site)
            found.append(adapter)
        return found


def _adapter_of(delta: TrainedDelta) -> Pfeiffer:
    """Return the settings of the adapters that ``delta`` holds.

    Raises:
        ArtifactError: It holds something else.
    """
    method = delta.methods[0]
    if len(delta.methods) > 1 or not isinstance(method, Pfeiffer):
        names = " and ".join(m.name for m in delta.methods)
        what = f"holds a delta of {names}, and adapter_fusion mixes adapters of {Pfeiffer.name}"
        raise ArtifactError(what, where=delta.folder, hint=HINT)
    if method.train_norms:
        raise ArtifactError(
            "its norms were trained with its adapters, and one network has one set of norms",
            where=delta.folder,
            hint="Train the adapters with method.train_norms=false.",
        )
    return method


def _check_sites(delta: TrainedDelta, anatomy: Anatomy, sites: Sequence[Site]) -> None:
    held = {s.address for s in _adapter_of(delta).sites(anatomy)}
    if missing := [s for s in sites if s.address not in held]:
        raise ArtifactError(
            f"has no adapter at {missing[0]}",
            where=delta.folder,
            hint="Fuse what every adapter has: choose method.layers and method.placement.",
        )


def _fill(adapter: Bottleneck, delta: TrainedDelta, site: Site) -> None:
    """Give ``adapter`` the numbers of the trained one at ``site``."""
    start = f"{delta.methods[0].name}.{site.address}.bottleneck."
    state = {n.removeprefix(start): t for n, t in delta.tensors.items() if n.startswith(start)}
    if _shapes(state) != _shapes(adapter.state_dict()):
        raise ArtifactError(f"its tensors at {site} are not what its settings say", where=delta.folder)
    adapter.load_state_dict(state)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
