"""DiffPruning: theta' = theta + z (.) w, with gates z that a penalty on their number closes.

Guo et al., "Parameter-Efficient Transfer Learning with Diff Pruning", 2020, arXiv:2012.07463. First w and the gates
train together: z is hard-concrete, with one gate for every entry and one more for every tensor, and lambda times the
expected number of open ones is added to the loss (the product of the two probabilities, as the paper has it). Then all
but the largest |z w| are set to zero, to the wanted number exactly, and the survivors train on with the mask fixed.
Gates are drawn once for every step; evaluation uses them without chance. The gradient of w and of the gates is clipped
as one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from peftcli.delta.entries import Entries, SparseMethod
from peftcli.delta.method import Card, PeftLayout
from peftcli.errors import MethodError
from peftcli.recipe.recipe import PositiveFloat, PositiveInt

if TYPE_CHECKING:
    from torch import Tensor

    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.delta.delta import Delta

COPIES = 9  # of the base model in float32: w and gates with gradients and two moments each, and the noise


class DiffPruning(SparseMethod):
    """DiffPruning: theta' = theta + z (.) w, with hard-concrete gates z under an L0 penalty, then pruned."""

    card = Card(
        title="Diff pruning",
        family="specification",
        paper="2012.07463",
        size_setting="entries",
        mergeable=True,
        starts_at_base=True,
        learning_rate=1e-5,
        source="the authors' code: 1e-5 for w, 0.1 for the gates, 5e-5 for the survivors",
        traps=(
            "the first half of the steps holds nine more copies of the base model in float32",
            "a recipe's learning rate is that of w: with a larger one than the published, lower gate_ratio",
            "gates that are closed without chance get no gradient: closed too fast, they leave nothing to prune",
        ),
    )

    entries: Entries = "0.5%"
    """How many entries change in the end: a number, or a share such as 0.5% (the published one)."""
    l0_penalty: PositiveFloat = 1.25e-7
    """lambda: what one open gate costs."""
    structured: bool = True
    """Whether every tensor has a gate too, so that whole tensors can close."""
    freeze_norms: bool = False
    """Whether normalisations stay as they are."""
    gate_ratio: PositiveFloat = 10_000.0
    """The gates' learning rate over that of w: 0.1 over 1e-5."""
    survivor_ratio: PositiveFloat = 5.0
    """The survivors' learning rate over that of w: 5e-5 over 1e-5."""
    most_numbers: Annotated[PositiveInt, Field(le=10**12)] = 1_000_000_000
    """Refuse to train on base models with more numbers than this."""

    @property
    def phases(self) -> int:
        return 2

    def rate_factor(self, name: str) -> float:
        if name in ("alpha", "group"):
            return self.gate_ratio
        return 1.0 if name == "w" else self.survivor_ratio

    def attach(self, base: BaseModel) -> None:
        from peftcli.blocks.masked import attach_sparse  # torch only when something is computed

        attach_sparse(base, self.tensors(base.anatomy), self.number(base.anatomy))

    def begin_phase(self, delta: Delta, phase: int) -> None:
        from peftcli.blocks.hard_concrete import GatedChange
        from peftcli.blocks.masked import keep_largest, places

        tensors = places(delta.blocks_of(self))
        if phase == 0:
            self._refuse_large(delta.base.anatomy)
            for block, name in tensors:
                block.give(name, GatedChange(block.start(name), structured=self.structured))
        else:
            keep_largest(tensors, self.number(delta.base.anatomy), keep=True)

    def before_step(self, delta: Delta, step: int, total: int) -> None:
        from peftcli.blocks.hard_concrete import GatedChange
        from peftcli.blocks.masked import changes

        for change in changes(delta.blocks_of(self)):
            if isinstance(change, GatedChange):
                change.draw()

    def penalty(self, delta: Delta) -> Tensor | None:
        """Return lambda times the expected number of entries that change; the head is none of them."""
        from peftcli.blocks.hard_concrete import GatedChange
        from peftcli.blocks.masked import changes

        open_gates = [c.expected_l0() for c in changes(delta.blocks_of(self)) if isinstance(c, GatedChange)]
        return self.l0_penalty * sum(open_gates[1:], start=open_gates[0]) if open_gates else None

    def peft_layout(self, delta: Delta) -> PeftLayout | str:
        """Return peft's SHIRA form, where nothing but weights of linear layers changed."""
        from peftcli.blocks.shira import shira_layout

        return shira_layout(delta)

    def _refuse_large(self, anatomy: Anatomy) -> None:
        if anatomy.size > self.most_numbers:
            gibibytes = COPIES * 4 * anatomy.size / 2**30
            raise MethodError(
                f"diff_pruning would hold {COPIES} more copies of the {anatomy.size:,} numbers of {anatomy.family}: "
                f"{gibibytes:,.1f} GiB",
                hint=f"Raise method.most_numbers from {self.most_numbers:,} if they fit, or use lt_sft.",
            )
