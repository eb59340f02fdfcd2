"""The anatomy of a base model: every parameter and every site, in closed form, from its config.json alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from peftcli.base.architectures import find
from peftcli.base.architectures.architecture import Arch, Architecture, Piece, StackPlan
from peftcli.base.architectures.expressions import evaluate, holds, number
from peftcli.base.layers import Layers
from peftcli.base.site_map import SiteMap
from peftcli.base.sites import PROJECTIONS, Site, Stack
from peftcli.errors import BaseModelError, ResourceError

OUTSIDE = "^"  # before the names of parameters outside the backbone
TASKS = (None, "classification", "causal-lm")
_MOST_LAYERS = 100_000


@dataclass(frozen=True, kw_only=True)
class BaseTensor:
    """One parameter of the pretrained network.

    Attributes:
        path: Its name in the backbone; after ``^``, in the network around it.
        stack, layer: Where it belongs to a layer.
        site: The name of the site whose module holds it; None for fused projections and what no site names.
        address: The name that outlives a renaming of modules.
        norm: Whether it belongs to a normalisation.
        optional: Whether checkpoints may lack it (a pooler); then it is new, and the head's.
    """

    path: str
    shape: tuple[int, ...]
    stack: Stack | None = None
    layer: int | None = None
    site: str | None = None
    address: str
    norm: bool = False
    optional: bool = False

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One parameter of a layer, before the layer's number is known."""

    name: str
    shape: tuple[int, ...]
    site: str | None
    address: str
    first: bool
    norm: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Anatomy:
    """What a base model is made of. Nothing here needs the network, its weights, or torch.

    Attributes:
        task: What it is prepared for: None is the bare backbone.
        labels: For a classifier, how many labels it tells apart.
        layers: How many layers each stack has.
    """

    architecture: Architecture
    values: Mapping[str, int]
    task: str | None
    labels: int | None
    layers: Mapping[str, int]

    @classmethod
    def of(cls, config: Mapping[str, Any], *, task: str | None = None, labels: int | None = None) -> Anatomy:
        """Read a config.json.

        Args:
            config: What config.json holds.
            task: None, "classification" or "causal-lm".
            labels: For a classifier, how many labels it tells apart.

        Raises:
            BaseModelError: The family is not known, a number is missing, or the family cannot do the task.
            ResourceError: The config describes a network that no machine holds.
        """
        assert task in TASKS, task
        architecture = find(config)
        section = config.get(architecture.section) if architecture.section else config
        values = evaluate(section if isinstance(section, Mapping) else {}, architecture.fields)
        values |= {"bare": task is None, "labels": labels or 0}
        if task == "causal-lm" and architecture.lm_head is None:
            kind = f"{architecture.family} is {_with_article(architecture.arch)}"
            raise BaseModelError(f"{kind} and cannot do causal-lm", hint="Choose a decoder such as gpt2 or llama.")
        anatomy = cls(
            architecture, values, task, labels, {s.name: number(s.layers, values) for s in architecture.stacks}
        )
        if max(anatomy.layers.values()) > _MOST_LAYERS:
            raise ResourceError(
                f"the config describes {max(anatomy.layers.values()):,} layers and {anatomy.size:,} parameters",
                hint="No machine holds this: look at the base model's config.json.",
            )
        return anatomy

    @property
    def family(self) -> str:
        """The model type of the config."""
        return self.architecture.family

    @property
    def arch(self) -> Arch:
        """Encoder, decoder, encoder-decoder or vision."""
        return self.architecture.arch

    @property
    def width(self) -> int:
        """The width of the residual stream."""
        return self.values["width"]

    @property
    def vocabulary(self) -> int:
        """How many rows the token embedding has; 0 where there is none."""
        return self.values.get("vocabulary", 0)

    @property
    def embedding_width(self) -> int:
        """The width of a token's vector, which may be narrower than the residual stream."""
        return self.values.get("embedding", self.width)

    @property
    def causal(self) -> bool:
        """Whether (in the last stack) a position sees only those before it."""
        return self.architecture.causal

    @property
    def pre_norm(self) -> bool:
        """Whether norms stand before the sublayers, rather than after the residual add."""
        return holds(self.architecture.pre_norm, self.values)

    @property
    def attention_interface(self) -> bool:
        """Whether the family computes attention through transformers' interface."""
        return self.architecture.attention_interface

    @property
    def max_positions(self) -> int | None:
        """The longest input in tokens; None where nothing limits it."""
        return number(self.architecture.positions, self.values) if self.architecture.positions else None

    @cached_property
    def size(self) -> int:
        """How many numbers the pretrained network holds, without a new head."""
        total = sum(t.size for t in self._outer())
        for plan, rows in self._rows.items():
            count = self.layers[plan]
            total += sum(math.prod(r.shape) * min(count, 1 if r.first else count) for r in rows)
        return total

    @cached_property
    def tensors(self) -> tuple[BaseTensor, ...]:
        """Every parameter of the pretrained network; tied ones once."""
        inner = (t for plan in self.architecture.stacks for i in self._range(plan) for t in self._layer(plan, i))
        return (*self._outer(), *inner)

    @cached_property
    def head_tensors(self) -> tuple[BaseTensor, ...]:
        """The parameters of a new classification head; none for other tasks, or before the labels are known."""
        if self.task != "classification" or not self.labels:
            return ()
        return tuple(
            BaseTensor(path=OUTSIDE + r.name, shape=r.shape, address=r.name)
            for piece in self.architecture.head
            for r in self._piece(piece)
        )

    @property
    def norms(self) -> tuple[BaseTensor, ...]:
        """The parameters of every normalisation, those of the embeddings and after the last layer included."""
        return tuple(t for t in self.tensors if t.norm)

    @property
    def projections(self) -> tuple[str, ...]:
        """The projections that the family has."""
        return tuple(n for n in self.site_names if n in PROJECTIONS)

    @property
    def head_size(self) -> int:
        """How many numbers a new head holds."""
        return sum(t.size for t in self.head_tensors)

    def sites(self, names: Sequence[str], layers: Layers = "all", cross: bool = True) -> list[Site]:
        """Return the sites of these names: stack by stack, layer by layer, in the order of the names.

        A model with two stacks has two embeddings. Where a family has a norm before and one after a sublayer, both
        answer to the name (``Site.post`` tells them apart); a norm that serves both sublayers is given once.

        Args:
            names: Names of sites, such as W_q.
            layers: Chosen in each stack: all, 8-11, top:4, 3, or a list of these.
            cross: Whether the attention over the encoder's output counts too.

        Raises:
            RecipeError: No site has this name, or a stack has no such layer.
            MethodError: The family has no such site.
        """
        return self._site_map.find(names, layers, cross)

    def address(self, path: str) -> str:
        """Return the address of a parameter; a name that is not the base model's is its own address."""
        return self._addresses.get(path) or path.removeprefix(OUTSIDE)

    def path(self, address: str) -> str:
        """Return the parameter that has an address."""
        return self._paths.get(address, address)

    @property
    def site_names(self) -> tuple[str, ...]:
        """The names of the sites that the network has."""
        return self._site_map.names

    @cached_property
    def _site_map(self) -> SiteMap:
        return SiteMap(self.architecture, self.values, self.layers)

    @cached_property
    def _addresses(self) -> dict[str, str]:
        return {t.path: t.address for t in (*self.tensors, *self.head_tensors)}

    @cached_property
    def _paths(self) -> dict[str, str]:
        return {address: path for path, address in self._addresses.items()}

    @property
    def _stacked(self) -> bool:
        return len(self.architecture.stacks) > 1

    def _range(self, plan: StackPlan) -> range:
        return range(self.layers[plan.name])

    def _layer(self, plan: StackPlan, layer: int) -> Iterator[BaseTensor]:
        block = plan.block.format(i=layer)
        head = f"{plan.name}.layers.{layer}" if self._stacked else f"layers.{layer}"
        for r in self._rows[plan.name]:
            if layer and r.first:
                continue
            path, address = f"{block}.{r.name}", f"{head}.{r.address}"
            where: dict[str, Any] = {"path": path, "stack": plan.name, "layer": layer, "address": address}
            yield BaseTensor(shape=r.shape, site=r.site, norm=r.norm, **where)

    def _outer(self) -> list[BaseTensor]:
        rows = [(r, "") for piece in self.architecture.around for r in self._piece(piece)]
        if self.task == "causal-lm" and self.architecture.lm_head:
            rows += [(r, OUTSIDE) for r in self._piece(self.architecture.lm_head)]
        return [
            BaseTensor(path=o + r.name, shape=r.shape, site=r.site, address=r.address, norm=r.norm, optional=r.optional)
            for r, o in rows
        ]

    @cached_property
    def _rows(self) -> dict[Stack, list[_Row]]:
        return {s.name: [r for piece in s.pieces for r in self._piece(piece)] for s in self.architecture.stacks}

    def _piece(self, piece: Piece) -> list[_Row]:
        """Return the parameters of a piece: its weight and, where it has one, its bias."""
        if not holds(piece.when, self.values):
            return []
        shape = tuple(number(expression, self.values) for expression in piece.shape)
        if piece.bare:
            return [_Row(name=piece.path, shape=shape, site=None, address=piece.path, first=piece.first)]
        site = None if piece.layout or not piece.sites else piece.sites[0]
        where = f"{'cross.' if piece.cross else 'post.' if piece.post else ''}{site}" if site else piece.path
        tensors = {"weight": shape}
        if holds(piece.bias, self.values):
            tensors["bias"] = shape[-1:] if piece.transposed else shape[:1]
        given: dict[str, Any] = {
            "site": site,
            "first": piece.first,
            "norm": len(shape) == 1,
            "optional": piece.optional,
        }
        return [_Row(name=f"{piece.path}.{n}", shape=s, address=f"{where}.{n}", **given) for n, s in tensors.items()]


def _with_article(arch: str) -> str:
    return "a vision encoder" if arch == "vision" else f"{'an' if arch[0] == 'e' else 'a'} {arch}"
