"""Adapters that are absent from the first layers: how many is set, or drawn anew for every pass of the training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from peftcli.base.base_model import BaseModel
from peftcli.base.sites import Site
from peftcli.blocks.adapters import Adapter


class LayerDrop:
    """Switches the adapters of a network, layer by layer.

    Attributes:
        dropped: How many of the first layers of each stack are without adapters when no number is drawn.
    """

    def __init__(self, base: BaseModel, sites: list[Site], dropped: Mapping[str, int]) -> None:
        self.dropped = dropped
        self._layers: dict[str, list[tuple[int, Adapter]]] = {}
        adapters = {b.address: b for b in base.network.modules() if isinstance(b, Adapter)}
        for site in sites:
            assert site.layer is not None
            self._layers.setdefault(site.stack, []).append((site.layer, adapters[site.address]))
            for parameter in adapters[site.address].bottleneck.parameters():
                parameter.may_rest = True  # type: ignore[attr-defined]  # it may be long until it is drawn
        base.network.register_forward_pre_hook(self._before_pass)

    def _before_pass(self, *_: Any) -> None:  # noqa: ANN401
        """Decide which adapters the coming pass has.

        A checkpointed layer that runs again for its gradient finds what was decided. Torch's own generator draws, so
        that a resumed run draws as the uninterrupted one would.
        """
        for stack, adapters in self._layers.items():
            count = 1 + max(layer for layer, _ in adapters)
            training = adapters[0][1].training
            switch(adapters, int(torch.randint(count, ())) if training else self.dropped[stack])


def switch(adapters: list[tuple[int, Adapter]], dropped: int) -> None:
    """Leave the adapters of the first ``dropped`` layers out."""
    for layer, adapter in adapters:
        adapter.present = layer >= dropped
        adapter.idle = ()
    # Parallel processes draw differently, and each must have a gradient for every tensor: here it is zero.
    absent: list[nn.Parameter] = [p for _, a in adapters if not a.present for p in a.bottleneck.parameters()]
    first = next((a for _, a in adapters if a.present), None)
    if first is not None and first.training:
        first.idle = absent
