"""Where the function of an adapter stands: behind a sublayer, beside it, around its norm, or behind a layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from peftcli.base.base_model import BaseModel
from peftcli.base.sites import Site
from peftcli.blocks.bottleneck import Bottleneck
from peftcli.blocks.fusion import Fusion
from peftcli.blocks.residual_stream import Entry
from peftcli.delta.block import Block, Order


class Adapter(Block):
    """Holds the function of an adapter; a subclass says where it stands.

    Attributes:
        present: Whether the adapter is there at all; one that is dropped computes what it wraps.
        idle: Parameters that had nothing to compute in this pass but want a gradient of zero.
    """

    idle: Sequence[nn.Parameter] = ()

    def __init__(
        self, wrapped: nn.Module, address: str, bottleneck: Bottleneck | Fusion, shared: nn.Module | None = None
    ) -> None:
        super().__init__(wrapped, address)
        if shared is not None:
            self.shared = shared  # before the bottleneck that uses it: the first name of a tensor counts
        self.bottleneck = bottleneck
        self.present = True

    def initialise(self, generator: torch.Generator) -> None:
        self.bottleneck.initialise(generator)

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return super().forward(*args, **kwargs) if self.present else self.wrapped(*args, **kwargs)

    def added(self, z: torch.Tensor) -> torch.Tensor:
        """Return what the adapter adds for ``z``: computed in its own type, returned in that of ``z``."""
        y: torch.Tensor = self.bottleneck(z.to(next(self.bottleneck.parameters()).dtype))
        for parameter in self.idle:
            y = y + 0 * parameter.sum()
        return y.to(z.dtype)


class Series(Adapter):
    """h <- h + f(h), where a sublayer's result h leaves it."""

    def adapted(self, *args: Any, **kwargs: Any) -> torch.Tensor:  # noqa: ANN401
        h: torch.Tensor = self.wrapped(*args, **kwargs)
        return h + self.added(h)


class Parallel(Adapter):
    """h <- h + f(x), beside a sublayer: x is what ``entry`` heard at its beginning."""

    order: ClassVar[Order] = Order.PARALLEL
    entry: Entry

    def adapted(self, *args: Any, **kwargs: Any) -> torch.Tensor:  # noqa: ANN401
        h: torch.Tensor = self.wrapped(*args, **kwargs)
        return h + self.added(self.entry.heard())


class OnStream(Adapter):
    """h <- h + f(x + h), where a sublayer's result h leaves it to be added to the residual stream x."""

    entry: Entry

    def adapted(self, *args: Any, **kwargs: Any) -> torch.Tensor:  # noqa: ANN401
        h: torch.Tensor = self.wrapped(*args, **kwargs)
        return h + self.added(self.entry.heard() + h)


class AroundNorm(Adapter):
    """y = LN(t + f(LN(t))), around the norm behind a residual add, which serves twice."""

    def adapted(self, t: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.wrapped(t + self.added(self.wrapped(t)))
        return y


class OnLayer(Adapter):
    """x <- x + f(x), on the output of a whole layer, which may be the first of several."""

    def adapted(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        out = self.wrapped(*args, **kwargs)
        if isinstance(out, torch.Tensor):
            return out + self.added(out)
        return (out[0] + self.added(out[0]), *out[1:])


def after_sublayers(
    base: BaseModel, sites: Sequence[Site], make: Callable[[Site], Bottleneck], shared: nn.Module | None = None
) -> None:
    """Put a series adapter where each of the sublayers ends."""
    for site in sites:
        out = base.sublayer_out(site)
        base.replace(out, Series(base.module(out), site.address, make(site), shared))


def beside_sublayers(
    base: BaseModel, sites: Sequence[Site], make: Callable[[Site], Bottleneck], *, normed: bool
) -> None:
    """Put an adapter parallel to each of the sublayers.

    Args:
        normed: Whether it reads what the sublayer reads, rather than the residual stream.
    """
    for site in sites:
        out = base.sublayer_out(site)
        block = Parallel(base.module(out), site.address, make(site))
        block.entry = Entry(base, site, normed=normed)
        base.replace(out, block)


def after_residual_adds(base: BaseModel, sites: Sequence[Site], make: Callable[[Site], Bottleneck | Fusion]) -> None:
    """Put an adapter where each sublayer's result has been added to the residual stream.

    Behind a norm that follows the add, the adapter's own result is added before the norm.
    """
    for site in sites:
        if base.anatomy.pre_norm:
            out = base.sublayer_out(site)
            block = OnStream(base.module(out), site.address, make(site))
            block.entry = Entry(base, site, normed=False)
            base.replace(out, block)
        else:
            norm = base.norm(site)
            base.replace(norm, AroundNorm(base.module(norm), site.address, make(site)))


def after_layers(base: BaseModel, sites: Sequence[Site], make: Callable[[Site], Bottleneck]) -> None:
    """Put an adapter on the output of the layers that hold the sublayers."""
    for site in sites:
        layer = base.layer(site)
        base.replace(layer, OnLayer(base.module(layer), site.address, make(site)))
