"""AdapterDrop: the adapters of the first n layers are left out, h <- h there.

Rueckle et al., "AdapterDrop: On the Efficiency of Adapters in Transformers", 2020, arXiv:2010.11918. The
adapters are Houlsby's or Pfeiffer's. A robust delta holds those of every layer: with another ``dropped`` the same
numbers serve, and nothing is trained again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from peftcli.delta.method import Card, Method
from peftcli.errors import MethodError
from peftcli.methods.houlsby import Houlsby
from peftcli.methods.pfeiffer import Pfeiffer
from peftcli.recipe.recipe import PositiveInt

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.base.sites import Site

ADAPTERS: dict[str, type[Houlsby] | type[Pfeiffer]] = {"houlsby": Houlsby, "pfeiffer": Pfeiffer}


class AdapterDrop(Method):
    """AdapterDrop: adapters in the upper layers only, for good or drawn anew for every pass of the training."""

    card = Card(
        title="AdapterDrop",
        family="addition",
        paper="2010.11918",
        size_setting="bottleneck",
        mergeable=False,
        starts_at_base=True,
        learning_rate=1e-4,
        source="the rate of Pfeiffer's adapters, which the paper drops",
        traps=("robust: the adapters of the first layers are rarely there, and need many steps to move",),
    )

    adapter: Literal["houlsby", "pfeiffer"] = "pfeiffer"
    """Whose adapter, with that method's own defaults."""
    bottleneck: PositiveInt = 48
    """Width inside the adapter."""
    dropped: Annotated[int, Field(ge=0)] | None = None
    """How many of the first layers of each stack have no adapter; null: 5 of every 12, at least one."""
    mode: Literal["specialised", "robust"] = "specialised"
    """specialised trains without them; robust draws how many for every pass, and any number serves afterwards."""

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        return self._inner.sizes_at(anatomy, self._sites(anatomy))

    def attach(self, base: BaseModel) -> None:
        sites = self._sites(base.anatomy)
        self._inner.attach_at(base, sites)
        if self.mode == "robust":
            from peftcli.blocks.layer_drop import LayerDrop  # torch only when something is computed

            LayerDrop(base, sites, self._first(base.anatomy))

    @property
    def _inner(self) -> Houlsby | Pfeiffer:
        return ADAPTERS[self.adapter](bottleneck=self.bottleneck)

    def _sites(self, anatomy: Anatomy) -> list[Site]:
        first, sites = self._first(anatomy), self._inner.sites(anatomy)
        return sites if self.mode == "robust" else [s for s in sites if s.layer is None or s.layer >= first[s.stack]]

    def _first(self, anatomy: Anatomy) -> dict[str, int]:
        """Return by stack the first layer that has an adapter.

        Raises:
            MethodError: None would.
        """
        found = {}
        for stack, layers in anatomy.layers.items():
            found[stack] = max(1, 5 * layers // 12) if self.dropped is None else self.dropped
            if found[stack] >= layers:
                raise MethodError(
                    f"without adapters in the first {found[stack]} layers, the {stack} of {anatomy.family} has none",
                    hint=f"Write method.dropped below {layers}.",
                )
        return found
