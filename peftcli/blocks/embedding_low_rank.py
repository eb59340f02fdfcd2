"""A token embedding whose table moves by a product of low rank: Delta E = scale * (B A)^T."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from peftcli.base.base_model import BaseModel
from peftcli.base.sites import Site
from peftcli.blocks.weight_delta import WeightDelta
from peftcli.delta.block import Block, innermost
from peftcli.errors import MethodError


class EmbeddingLowRank(WeightDelta):
    """y = E[x] + scale * (A[:, x])^T B^T. A starts at zero, so training starts at the base model.

    A head that is tied to the table goes on with the base model's.

    Shapes: embedding_A (rank, vocabulary), embedding_B (embedding_width, rank); ids (...,); returns (..., width).
    """

    unties = True

    def __init__(self, wrapped: nn.Module, site: Site, *, rank: int, scale: float) -> None:
        super().__init__(wrapped, site)
        self.scale = scale
        # Another block may look tokens up before this one is initialised: a prompt that starts as rows of the table.
        self.embedding_A = nn.Parameter(torch.zeros(rank, site.d_in))
        self.embedding_B = nn.Parameter(torch.zeros(site.d_out, rank))

    def initialise(self, generator: torch.Generator) -> None:
        nn.init.zeros_(self.embedding_A)
        nn.init.normal_(self.embedding_B, generator=generator)

    def adapted(self, ids: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.wrapped(ids)
        table = innermost(self)
        padding = getattr(table, "padding_idx", None)  # whose row gets no gradient, as in the table itself
        dy = F.linear(F.embedding(ids, self.embedding_A.T, padding), self.embedding_B) * self.scale
        # Gemma and BART scale what they look up inside the module.
        return y + (dy * getattr(table, "embed_scale", 1.0)).to(y.dtype)

    def delta_rows(self, rows: slice) -> torch.Tensor:
        return self.scale * (self.embedding_B[rows] @ self.embedding_A)

    def delta_columns(self, columns: slice) -> torch.Tensor:
        return self.scale * (self.embedding_B @ self.embedding_A[:, columns])


def attach_to_table(base: BaseModel, site: Site, *, rank: int, scale: float) -> None:
    """Put one block around the token embeddings, wherever they are: an encoder and a decoder share a table.

    Raises:
        MethodError: Another method of the stack has put different blocks around them at different places.
    """
    table = next(t for t in base.anatomy.tensors if t.site == site.name)
    paths = [base.name(table.address).rpartition(".")[0], *map(base.path, base.sites((site.name,)))]
    places = {path: base.module(path) for path in paths}
    most = max(places.values(), key=lambda module: len(_blocks(module)))
    if any(not _blocks(module) <= _blocks(most) for module in places.values()):
        raise MethodError(
            "two methods of the stack stand at different places of the token embeddings",
            hint="Put the one with target_modules: [embeddings] first.",
        )
    block = EmbeddingLowRank(most, site, rank=rank, scale=scale)
    for path in places:
        base.replace(path, block)


def _blocks(module: nn.Module) -> set[Block]:
    return {inner for inner in module.modules() if isinstance(inner, Block)}
