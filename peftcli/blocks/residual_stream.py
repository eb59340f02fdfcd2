"""The residual stream: what enters a sublayer, kept for the adapter at its end."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from peftcli.base.base_model import BaseModel
from peftcli.base.sites import Site


class Entry:
    """Hears what enters a sublayer and forgets it once it was used, or when the layer is done.

    It listens at the norm before the sublayer or, where the norms stand behind the residual adds, at the sublayer
    itself. So it knows no family, and checkpointed layers, which run twice, are heard twice.
    """

    def __init__(self, base: BaseModel, site: Site, *, normed: bool) -> None:
        """Listen from now on.

        Args:
            normed: Whether to hear what the sublayer reads, rather than the residual stream.
        """
        self._x: torch.Tensor | None = None
        first = site if normed or not base.anatomy.pre_norm else base.norm(site)
        base.module(first).register_forward_pre_hook(self._hear, with_kwargs=True)
        base.module(base.layer(site)).register_forward_hook(self._forget, always_call=True)

    def heard(self) -> torch.Tensor:
        """Return what entered, once: a checkpointed layer that runs again may stop before its end."""
        x, self._x = self._x, None
        assert x is not None, "the sublayer has not begun"
        return x

    def _hear(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._x = args[0] if args else kwargs["hidden_states"]

    def _forget(self, *_: Any) -> None:  # noqa: ANN401
        self._x = None
