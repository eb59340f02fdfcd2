"""Bottlenecks at a single projection: before its input, behind its output, or beside it."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from peftcli.base.sites import Site
from peftcli.blocks.adapters import Adapter
from peftcli.blocks.bottleneck import Bottleneck
from peftcli.blocks.weight_delta import add_to_rows
from peftcli.delta.block import Order


class ProjectionAdapter(Adapter):
    """Holds the bottleneck; of a fused projection only the rows of this site's part are adapted."""

    site: Site

    def __init__(self, wrapped: nn.Module, site: Site, bottleneck: Bottleneck) -> None:
        super().__init__(wrapped, site.address, bottleneck)
        self.site = site


class BeforeProjection(ProjectionAdapter):
    """y = W (x + f(x)) + b."""

    def adapted(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.wrapped(x + self.added(x))
        if self.site.rows is None:
            return y
        plain: torch.Tensor = self.wrapped(x)
        for start, stop in self.site.rows:
            plain[..., start:stop] = y[..., start:stop]
        return plain


class BehindProjection(ProjectionAdapter):
    """y <- y + f(y), of a projection that is no part of a fused one."""

    def adapted(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.wrapped(x)
        return y + self.added(y)


class BesideProjection(ProjectionAdapter):
    """y = W x + b + f(x)."""

    order: ClassVar[Order] = Order.PARALLEL

    def adapted(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.wrapped(x)
        return add_to_rows(y, self.added(x).to(y.dtype), self.site)
