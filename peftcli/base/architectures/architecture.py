"""What is known of a family of networks: where each parameter lies and how wide it is, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from peftcli.base.architectures.expressions import ALWAYS, NEVER, Field
from peftcli.base.sites import Stack

Arch = Literal["encoder", "decoder", "encoder-decoder", "vision"]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One module that holds parameters (or one bare parameter).

    Widths and conditions are expressions over the values of a config (see expressions.py).

    Attributes:
        path: Relative to the layer, or to the backbone; in a head, to the network.
        shape: Of the weight, as it is stored.
        bias: When it has one.
        when: When the piece exists.
        sites: The names it answers to; more than one where projections are fused.
        layout: How fused projections share the rows (see rows.py).
        transposed: Whether the weight is stored (d_in, d_out).
        bare: Whether ``path`` is itself the parameter.
        first: Whether only layer 0 has it.
        cross: Whether it belongs to the attention over the encoder's output.
        post: For a norm, whether it stands on the sublayer's result, beside one before the sublayer.
        optional: Whether checkpoints may lack it.
    """

    path: str
    shape: tuple[str, ...]
    bias: str = NEVER
    when: str = ALWAYS
    sites: tuple[str, ...] = ()
    layout: str = ""
    transposed: bool = False
    bare: bool = False
    first: bool = False
    cross: bool = False
    post: bool = False
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class Sublayer:
    """Where an attention or a feed-forward sublayer begins and ends.

    Attributes:
        path: The module that takes the sublayer's input.
        out: The module whose output is the sublayer's result just before the residual add.
    """

    name: Literal["attention", "ffn"]
    path: str
    out: str
    cross: bool = False


@dataclass(frozen=True, kw_only=True)
class StackPlan:
    """One stack of equal layers.

    Attributes:
        block: The path of a layer, with ``{i}`` for its number.
        token: The module that looks up the tokens that enter the stack; None where images do.
        heads, key_value_heads, head_width: The widths of its attention.
    """

    name: Stack
    block: str
    layers: str
    pieces: tuple[Piece, ...]
    sublayers: tuple[Sublayer, ...]
    token: str | None
    heads: str = "heads"
    key_value_heads: str = "heads"
    head_width: str = "head_width"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A family of networks.

    Attributes:
        prefixes: Where the backbone may sit in a network; the first that fits is taken.
        fields: The values that expressions are made of, in the order they are computed.
        section: The part of the config that describes the backbone; empty for all of it.
        around: The backbone's parameters outside its layers.
        heads: What a new head is made of, by the task that it is for.
        lm_head: The output projection, where it is not the embedding; None where the family generates nothing.
        causal: Whether a position sees only those before it (in the last stack).
        pre_norm: When the norms stand before the sublayers.
        attention_interface: Whether the family computes attention through transformers' interface.
        positions: The longest input in tokens; empty where nothing limits it.
        unread: Modules of the backbone whose output a new head does not read, so that nothing trains them.
        renames: Module names of older checkpoints -> today's, tried in this order.
    """

    family: str
    arch: Arch
    prefixes: tuple[str, ...]
    fields: Mapping[str, Field]
    stacks: tuple[StackPlan, ...]
    around: tuple[Piece, ...]
    heads: Mapping[str, tuple[Piece, ...]]
    lm_head: Piece | None = None
    section: str = ""
    causal: bool = False
    pre_norm: str = ALWAYS
    attention_interface: bool = True
    positions: str = ""
    unread: tuple[str, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()


def linear(path: str, site: str, d_in: str, d_out: str, bias: str = ALWAYS) -> Piece:
    """Return a projection that is one site (or, with an empty name, none)."""
    return Piece(path=path, shape=(d_out, d_in), bias=bias, sites=(site,) if site else ())


def norm(path: str, site: str = "", *, bias: str = ALWAYS, width: str = "width", when: str = ALWAYS) -> Piece:
    """Return a normalisation."""
    return Piece(path=path, shape=(width,), bias=bias, sites=(site,) if site else (), when=when)


def table(path: str, rows: str, width: str = "width", *, site: str = "", when: str = ALWAYS) -> Piece:
    """Return a table of vectors."""
    return Piece(path=path, shape=(rows, width), sites=(site,) if site else (), when=when)
