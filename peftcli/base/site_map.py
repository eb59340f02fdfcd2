"""Where a network's sites are: the templates of one layer, and their copies in the layers a recipe chooses."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from peftcli.base.architectures.architecture import Architecture, Piece, StackPlan
from peftcli.base.architectures.expressions import holds, number
from peftcli.base.architectures.rows import LAYOUTS
from peftcli.base.layers import Layers, select
from peftcli.base.sites import NORMS, PROJECTIONS, SITE_NAMES, Heads, Rows, Site
from peftcli.errors import BaseModelError, MethodError, RecipeError


@dataclass(frozen=True)
class SiteMap:
    """The sites of an architecture under the values of one config.

    Attributes:
        layers: How many layers each stack has.
    """

    architecture: Architecture
    values: Mapping[str, int]
    layers: Mapping[str, int]

    def find(self, names: Sequence[str], layers: Layers, cross: bool) -> list[Site]:
        """Return the sites of these names (see Anatomy.sites)."""
        self._check(names)
        found: list[Site] = []
        for plan in self.architecture.stacks:
            templates = self._templates[plan.name]
            wanted = [t for n in names for t in templates.get(n, ()) if cross or not t.cross]
            found += [t for t in wanted if t.layer is None]
            inner = _norms_once([t for t in wanted if t.layer is not None])
            if inner or layers != "all":
                for i in select(layers, self.layers[plan.name], plan.name):
                    block = plan.block.format(i=i) + "."
                    found += [_placed(t, block, i) for t in inner]
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the sites that the network has."""
        own = {n for templates in self._templates.values() for n in templates}
        return tuple(n for n in SITE_NAMES if n in own)

    @cached_property
    def _templates(self) -> dict[str, dict[str, list[Site]]]:
        """By stack and name: the sites of a layer, with paths inside it (and the embeddings, which are in none)."""
        found: dict[str, dict[str, list[Site]]] = {}
        for plan in self.architecture.stacks:
            sites = found[plan.name] = {}
            for site in self._stack_sites(plan):
                sites.setdefault(site.name, []).append(site)
        return found

    def _stack_sites(self, plan: StackPlan) -> Iterator[Site]:
        heads = self._heads(plan)
        common: dict[str, Any] = {"stack": plan.name, "stacked": len(self.architecture.stacks) > 1}
        for piece in plan.pieces:
            yield from self._piece_sites(piece, heads, common)
        width = self.values["width"]
        for sub in plan.sublayers:
            own = heads if sub.name == "attention" else None
            given = {**common, "heads": own, "cross": sub.cross, "out": sub.out}
            yield Site(name=sub.name, layer=0, path=sub.path, d_in=width, d_out=width, **given)
        if plan.token:
            d_in, d_out = self.values["vocabulary"], self.values["embedding"]
            yield Site(name="embeddings", layer=None, path=plan.token, d_in=d_in, d_out=d_out, **common)

    def _piece_sites(self, piece: Piece, heads: Heads, common: dict[str, Any]) -> Iterator[Site]:
        if not piece.sites or not holds(piece.when, self.values):
            return
        stored = [number(expression, self.values) for expression in piece.shape]
        d_in, d_out = (stored[0], stored[-1]) if piece.transposed else (stored[-1], stored[0])
        parts = self._parts(piece, heads)
        for name in piece.sites:
            rows = parts.get(name)
            yield Site(
                name=name,
                layer=0,
                path=piece.path,
                d_in=d_in,
                d_out=sum(stop - start for start, stop in rows) if rows else d_out,
                rows=rows,
                transposed=piece.transposed,
                bias=holds(piece.bias, self.values),
                heads=heads if name in PROJECTIONS[:3] else None,
                cross=piece.cross,
                post=piece.post,
                **common,
            )

    def _heads(self, plan: StackPlan) -> Heads:
        names = (plan.heads, plan.key_value_heads, plan.head_width)
        query, key_value, width = (number(n, self.values) for n in names)
        if query % key_value:
            raise BaseModelError(
                f"{query} query heads cannot share {key_value} key/value heads",
                hint="Look at the base model's config.json.",
            )
        return Heads(query=query, key_value=key_value, width=width)

    def _parts(self, piece: Piece, heads: Heads) -> dict[str, Rows]:
        if not piece.layout:
            return {}
        query, key_value = heads.query * heads.width, heads.key_value * heads.width
        widths = {"W_q": query, "W_k": key_value, "W_v": key_value}
        widths |= dict.fromkeys(("W_gate", "W_up"), self.values["ffn"])
        return LAYOUTS[piece.layout]({name: widths[name] for name in piece.sites}, heads)

    def _check(self, names: Sequence[str]) -> None:
        unknown = [n for n in names if n not in SITE_NAMES]
        if unknown:
            raise RecipeError(f"no site is called {unknown[0]!r}", hint=self._hint(unknown[0]))
        missing = [n for n in names if n not in self.names]
        if missing:
            what = f"{self.architecture.family} has no {' and no '.join(missing)}"
            raise MethodError(what, hint=f"It has {', '.join(self.names)}.")

    def _hint(self, name: str) -> str:
        """Say what a wrong name may have meant: a module of this family, or a typing mistake."""
        for plan in self.architecture.stacks:
            for piece in plan.pieces:
                if piece.sites and piece.path.split(".")[-1].removesuffix("_proj") == name.removesuffix("_proj"):
                    return f"In {self.architecture.family}, '{name}' is {' and '.join(piece.sites)}."
        spelled = [n for n in SITE_NAMES if n.lower() == name.lower()]
        near = spelled or difflib.get_close_matches(name, SITE_NAMES, n=1)
        return f"Did you mean '{near[0]}'?" if near else f"Name {', '.join(self.names)}."


def _norms_once(sites: list[Site]) -> list[Site]:
    """Drop the second name of a norm that serves both sublayers."""
    paths = [s.path for s in sites]
    return [s for i, s in enumerate(sites) if s.name not in NORMS or s.path not in paths[:i]]


def _placed(site: Site, block: str, layer: int) -> Site:
    out = block + site.out if site.out else None
    return replace(site, layer=layer, path=block + site.path, out=out)
