"""Winning tickets: W' = mask (.) w, a part of the pretrained weights, trained alone; all others are exactly zero.

Frankle and Carbin, "The Lottery Ticket Hypothesis", 2018, arXiv:1803.03635; on pretrained models Chen et al.,
"The Lottery Ticket Hypothesis for Pre-trained BERT Networks", 2020, arXiv:2007.12223, and Prasanna et al. 2020,
arXiv:2005.00561. A round trains what is left, prunes, and puts the
survivors back to where they began; every round prunes the same share of what is left, and after the last one the ticket
trains. Which weights survive is one choice over all matrices: those of the largest magnitude, or those that moved most
away from zero, by S = -sum over the steps of dL/dw w (Sanh et al. 2020, arXiv:2005.07683; with the gradient as it was
clipped). Unlike there, a pruned weight does not come back. The weights themselves train, not a change of them; weight
decay acts on none. Everything else, such as biases and norms, stays the base model's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from peftcli.delta.entries import Entries, dealt, how_many, percent
from peftcli.delta.method import Card, Method
from peftcli.delta.targets import Layers, Projections
from peftcli.errors import MethodError
from peftcli.recipe.recipe import PositiveInt, Share

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.base.sites import Rows, Site
    from peftcli.delta.delta import Delta


def _early(share: str) -> str:
    if not 0 < percent(share) < 100:
        what = f"'{share}' is no point inside the first round"
        raise PydanticCustomError("share", "{what}", {"what": what, "hint": "Write more than 0% and less than 100%."})
    return share


class WinningTicket(Method):
    """Winning ticket: W' = mask (.) w; rounds of training, pruning and rewinding choose the mask, and w trains."""

    card = Card(
        title="Winning ticket (iterative pruning)",
        family="specification",
        paper="2007.12223",
        size_setting="survivors",
        mergeable=True,
        starts_at_base=False,
        learning_rate=2e-5,
        source="Chen et al. on GLUE, which are BERT's own settings",
        traps=(
            "rounds + 1 trainings share the steps of the run; only the last one is kept",
            "the first round trains every weight of the target modules: it needs the memory of full fine-tuning",
            "the first round starts at the base model, what follows does not: it is pruned before it trains",
            "the network has zeros, not fewer numbers: faster only where something skips them",
        ),
    )

    survivors: Entries = "30%"
    """How many weights survive: a number, or a share of them; 30% is a sparsity of 70 %."""
    rounds: PositiveInt = 3
    """How often is pruned; every time the same share of what is left."""
    score: Literal["magnitude", "movement"] = "magnitude"
    """Who survives: the largest weights, or those that training moved most away from zero."""
    rewind: Literal["start"] | Annotated[Share, AfterValidator(_early)] = "start"
    """What survivors go back to: pretrained values, or those after a share, such as 10%, of the first round's steps.

    The head begins anew in every round.
    """
    target_modules: Literal["all-linear"] | Projections = "all-linear"
    """The weight matrices that are pruned; all-linear is every projection of attention and FFN."""
    layers: Layers = "all"
    """The layers whose matrices are pruned: all, 8-11, [0, 5] or top:4."""
    embeddings: bool = False
    """Whether the token embeddings are pruned too, and with them a head that is tied to them."""

    @property
    def phases(self) -> int:
        return self.rounds + 1

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        """Return what survives where before training has chosen; the sum stays."""
        return dealt(self.left(anatomy, self.rounds), {a: size for a, (size, _) in self._targets(anatomy).items()})

    def left(self, anatomy: Anatomy, pruned: int) -> int:
        """Return how many weights are left after so many times of pruning.

        Raises:
            MethodError: More are to survive than there are.
        """
        total = sum(size for size, _ in self._targets(anatomy).values())
        number = how_many(self.survivors, total)
        if number > total:
            raise MethodError(
                f"method.survivors is {number:,}, but the target modules of {anatomy.family} have {total:,} weights",
                hint="Write a smaller number, or a share such as 30%.",
            )
        return round(total * math.pow(number / total, pruned / self.rounds))

    def attach(self, base: BaseModel) -> None:
        from peftcli.blocks.pruned import Part, attach_pruned  # torch only when something is computed

        tensors = {t.address: t for t in base.anatomy.tensors}
        parts = {
            address: Part(tensor=tensors[address], rows=_rows(sites), transposed=any(s.transposed for s in sites))
            for address, (_, sites) in self._targets(base.anatomy).items()
        }
        attach_pruned(base, parts, self.left(base.anatomy, self.rounds))

    def begin_phase(self, delta: Delta, phase: int) -> None:
        from peftcli.blocks.pruned import keep_all, places, prune

        weights, movement = places(delta.blocks_of(self)), self.score == "movement"
        if phase == 0:
            keep_all(weights, scored=movement, late=self.rewind != "start")
        else:
            number = self.left(delta.base.anatomy, phase)
            prune(weights, number, movement=movement, last=phase == self.rounds)
            delta.reset_head()

    def before_step(self, delta: Delta, step: int, total: int) -> None:
        from peftcli.blocks.pruned import places

        if self.rewind == "start":
            return
        first_round = -(-total // delta.phases)
        if step == int(first_round * percent(self.rewind) / 100) + 1:
            for block, name in places(delta.blocks_of(self)):
                block.survivors(name).note_values()

    def before_update(self, delta: Delta) -> None:
        from peftcli.blocks.pruned import places

        if self.score == "movement":
            for block, name in places(delta.blocks_of(self)):
                block.survivors(name).add_movement()

    def _targets(self, anatomy: Anatomy) -> dict[str, tuple[int, list[Site]]]:
        """Return, by address: how many of a tensor's weights may be pruned, and the sites it is of (none: a table)."""
        names = anatomy.projections if self.target_modules == "all-linear" else self.target_modules
        found: dict[str, list[Site]] = {}
        for site in anatomy.sites(names, self.layers):
            found.setdefault(anatomy.address(f"{site.path}.weight"), []).append(site)
        sizes = {t.address: t.size for t in anatomy.tensors}
        targets = {a: (sizes[a] if _rows(s) is None else sum(x.d_in * x.d_out for x in s), s) for a, s in found.items()}
        if self.embeddings:
            anatomy.sites(("embeddings",))  # which says where there are none
            targets |= {t.address: (t.size, []) for t in anatomy.tensors if t.site == "embeddings"}
        return targets


def _rows(sites: list[Site]) -> Rows | None:
    """Return the output features of a module that are one of ``sites``; None: all."""
    if not sites or any(site.rows is None for site in sites):
        return None
    return tuple(sorted(rows for site in sites for rows in site.rows or ()))
