"""The anatomy of a base model: every parameter and every site, in closed form, from its config.json alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
NETWORKS = {
    "AutoModel": None,
    "AutoModelForSequenceClassification": "classification",
    "AutoModelForImageClassification": "classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForQuestionAnswering": "span-qa",
    "AutoModelForCausalLM": "causal-lm",
    "AutoModelForSeq2SeqLM": "seq2seq",
}
"""The transformers class of a network -> what an anatomy calls the task that it is for."""
PER_TOKEN = ("token-classification", "span-qa")
"""The tasks whose head reads every token, so that transformers builds no pooler."""
_GENERATING = {"decoder": "causal-lm", "encoder-decoder": "seq2seq"}
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
            task: One of the values of NETWORKS.
            labels: For a new head, how many labels it tells apart.

        Raises:
            BaseModelError: The family is not known, a number is missing, or the family cannot do the task.
            ResourceError: The config describes a network that no machine holds.
        """
        assert task in NETWORKS.values(), task
        architecture = find(config)
        section = config.get(architecture.section) if architecture.section else config
        values = evaluate(section if isinstance(section, Mapping) else {}, architecture.fields)
        values |= {"bare": task is None, "per_token": task in PER_TOKEN, "labels": labels or 0}
        _check_task(architecture, task)
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
        for stack, templates in self._templates.items():
            total += sum(t.size * (1 if first else self.layers[stack]) for t, first in templates)
        return total

    @cached_property
    def tensors(self) -> tuple[BaseTensor, ...]:
        """Every parameter of the pretrained network; tied ones once."""
        inner = (t for plan in self.architecture.stacks for i in self._range(plan) for t in self._layer(plan, i))
        return (*self._outer(), *inner)

    @cached_property
    def head_tensors(self) -> tuple[BaseTensor, ...]:
        """The parameters of a new head; none where the task has a pretrained one, or before the labels are known."""
        if not self.labels:
            return ()
        pieces = self.architecture.heads.get(self.task or "", ())
        return tuple(replace(t, path=OUTSIDE + t.path) for piece in pieces for t in self._piece(piece))

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

    def layer_path(self, site: Site) -> str:
        """Return the path of the layer that a site is in, relative to the backbone."""
        plan = next(p for p in self.architecture.stacks if p.name == site.stack)
        return plan.block.format(i=site.layer)

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
        for tensor, first in self._templates[plan.name]:
            if not (layer and first):
                path, address = f"{block}.{tensor.path}", f"{head}.{tensor.address}"
                yield replace(tensor, path=path, address=address, stack=plan.name, layer=layer)

    def _outer(self) -> list[BaseTensor]:
        tensors = [t for piece in self.architecture.around for t in self._piece(piece)]
        if self.task == _GENERATING.get(self.arch) and self.architecture.lm_head:
            tensors += [replace(t, path=OUTSIDE + t.path) for t in self._piece(self.architecture.lm_head)]
        return tensors

    @cached_property
    def _templates(self) -> dict[Stack, list[tuple[BaseTensor, bool]]]:
        """By stack: the tensors of a layer, named inside it, and whether only layer 0 has them."""
        plans = self.architecture.stacks
        return {plan.name: [(t, piece.first) for piece in plan.pieces for t in self._piece(piece)] for plan in plans}

    def _piece(self, piece: Piece) -> list[BaseTensor]:
        """Return the parameters of a piece: its weight and, where it has one, its bias."""
        if not holds(piece.when, self.values):
            return []
        shape = tuple(number(expression, self.values) for expression in piece.shape)
        if piece.bare:
            return [BaseTensor(path=piece.path, shape=shape, address=piece.path)]
        site = None if piece.layout or not piece.sites else piece.sites[0]
        where = f"{'cross.' if piece.cross else 'post.' if piece.post else ''}{site}" if site else piece.path
        shapes = {"weight": shape}
        if holds(piece.bias, self.values):
            shapes["bias"] = shape[-1:] if piece.transposed else shape[:1]
        kind: dict[str, Any] = {"site": site, "norm": len(shape) == 1, "optional": piece.optional}
        return [
            BaseTensor(path=f"{piece.path}.{n}", shape=s, address=f"{where}.{n}", **kind) for n, s in shapes.items()
        ]


def _check_task(architecture: Architecture, task: str | None) -> None:
    """Refuse a task for which the family has no head.

    Raises:
        BaseModelError: It has none.
    """
    kind = f"{architecture.family} is {_with_article(architecture.arch)}"
    if task in _GENERATING.values():
        if architecture.lm_head is None or _GENERATING.get(architecture.arch) != task:
            known = {"causal-lm": "a decoder such as gpt2 or llama", "seq2seq": "an encoder-decoder such as t5 or bart"}
            raise BaseModelError(f"{kind} and cannot do {task}", hint=f"Choose {known[task or '']}.")
    elif task is not None and task not in architecture.heads:
        raise BaseModelError(f"{kind} and has no head for {task}", hint="Choose an encoder such as bert or roberta.")


def _with_article(arch: str) -> str:
    return "a vision encoder" if arch == "vision" else f"{'an' if arch[0] == 'e' else 'a'} {arch}"
