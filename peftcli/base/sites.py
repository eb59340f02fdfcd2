"""Sites: the places in a base model that a recipe can name."""

from dataclasses import dataclass
from typing import Literal

PROJECTIONS = ("W_q", "W_k", "W_v", "W_o", "W_up", "W_gate", "W_down")
SUBLAYERS = ("attention", "ffn")
NORMS = ("attention_norm", "ffn_norm")
SITE_NAMES = (*PROJECTIONS, *SUBLAYERS, *NORMS, "embeddings")

Stack = Literal["encoder", "decoder", "vision"]
Rows = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Heads:
    """The widths of one attention: query heads, key/value heads (fewer under grouped queries), width of a head."""

    query: int
    key_value: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Site:
    """One place in a base model, such as W_q of layer 3.

    Attributes:
        name: One of SITE_NAMES.
        stack: The stack of layers it belongs to.
        layer: From 0, in its stack; None for the embeddings.
        cross: Whether it belongs to the attention over the encoder's output.
        path: The module, relative to the backbone.
        out: For a sublayer, the module whose output is the sublayer's result just before the residual add.
        d_in: Width of what enters; for a sublayer or a norm, the width of the residual stream.
        d_out: Width of what leaves; in a fused projection, of this part alone.
        rows: In a fused projection, the (start, stop) ranges of output rows that are this part; None for all.
        transposed: Whether the weight is stored (d_in, d_out), as in GPT-2's Conv1D.
        bias: Whether the module has one.
        heads: For an attention sublayer and its W_q, W_k, W_v.
        post: For a norm, whether it stands on the sublayer's result, beside one before the sublayer (Gemma 2).
    """

    name: str
    stack: Stack
    layer: int | None
    path: str
    d_in: int
    d_out: int
    out: str | None = None
    cross: bool = False
    rows: Rows | None = None
    transposed: bool = False
    bias: bool = False
    heads: Heads | None = None
    post: bool = False
    stacked: bool = False  # the model has more than one stack: addresses name theirs

    @property
    def address(self) -> str:
        """The name a delta's tensors are stored under: it outlives a renaming of modules in transformers."""
        where = f"layers.{self.layer}." if self.layer is not None else ""
        return f"{self.stack + '.' if self.stacked else ''}{where}{self._part('.')}{self.name}"

    def __str__(self) -> str:
        where = f"layer {self.layer} " if self.layer is not None else ""
        return f"{self.stack + ' ' if self.stacked else ''}{where}{self._part(' ')}{self.name}"

    def _part(self, end: str) -> str:
        return f"cross{end}" if self.cross else f"post{end}" if self.post else ""
