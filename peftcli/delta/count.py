"""Counts of a delta, in closed form and as attached: one shape for both."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy
    from peftcli.delta.delta import Delta
    from peftcli.delta.method import Method


@dataclass(frozen=True, kw_only=True)
class Count:
    """How many numbers train, beside how many the base model holds.

    Attributes:
        base: |Theta|, tied tensors once, without a new head.
        delta: |Phi|, without the head.
        head: What the task adds to the network.
        per_layer: Of the delta, by layer; "-" for what belongs to none.
        per_site: Of the delta, by site.
    """

    base: int
    delta: int
    head: int
    per_layer: dict[str, int]
    per_site: dict[str, int]

    @property
    def fraction(self) -> float:
        """|Phi| / |Theta|, as the field's papers count."""
        return self.delta / self.base

    @property
    def fraction_of_all(self) -> float:
        """Everything that trains over everything there is, as Hugging Face peft prints."""
        both = self.delta + self.head
        return both / (self.base + both)


def closed_form(methods: tuple[Method, ...], anatomy: Anatomy) -> Count:
    """Return the counts from the base model's config alone."""
    own = {t.address for t in anatomy.tensors}
    sizes, unfrozen = [], dict[str, int]()
    for method in methods:
        for address, size in method.sizes(anatomy).items():
            if address in own:
                unfrozen[address] = size  # a base parameter that two methods train trains once
            else:
                sizes.append((address, size))
    sizes += unfrozen.items()
    return _count(anatomy.size, sum(t.size for t in anatomy.head_tensors), sizes)


def counted(delta: Delta) -> Count:
    """Return the counts of what was attached."""
    # Past the label of the method (or "base"), which stands before the first dot.
    sizes = [(address.partition(".")[2], p.numel()) for address, p in delta.parameters.items()]
    return _count(delta.base.size, delta.head_size, sizes)


def _count(base: int, head: int, sizes: list[tuple[str, int]]) -> Count:
    per_layer: Counter[str] = Counter()
    per_site: Counter[str] = Counter()
    for address, size in sizes:
        layer, site = place(address)
        per_layer[layer] += size
        per_site[site] += size
    total = sum(size for _, size in sizes)
    return Count(base=base, delta=total, head=head, per_layer=dict(per_layer), per_site=dict(per_site))


def place(address: str) -> tuple[str, str]:
    """Return the layer ("-" for none) and the site that an address names."""
    parts = address.split(".")
    if "layers" not in parts:
        return "-", parts[0]
    at = parts.index("layers")
    stack = f"{parts[at - 1]}." if at else ""
    rest = parts[at + 2 :]
    cross = "cross." if rest[0] == "cross" else ""
    return f"{stack}{parts[at + 1]}", cross + rest[bool(cross)]
