"""LT-SFT: theta' = theta + phi, with phi zero but for K entries that a first training chose.

Ansell et al., "Composable Sparse Fine-Tuning for Cross-Lingual Transfer", 2021, arXiv:2110.07560. Phase one trains
everything; the mask is the K entries that moved most, over all tensors together. Everything goes back to where it was,
the head too, and phase two trains what the mask holds. Both phases train the change and not the weight, so the base
model itself stays as it is; weight decay acts on neither (it would draw the change to zero).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftcli.delta.entries import Entries, SparseMethod
from peftcli.delta.method import Card, PeftLayout

if TYPE_CHECKING:
    from peftcli.base.base_model import BaseModel
    from peftcli.delta.delta import Delta


class LtSft(SparseMethod):
    """LT-SFT: theta' = theta + phi; phi trains at the K entries that moved most in a full fine-tuning before."""

    card = Card(
        title="Lottery-ticket sparse fine-tuning",
        family="specification",
        paper="2110.07560",
        size_setting="entries",
        mergeable=True,
        starts_at_base=True,
        learning_rate=2e-5,
        source="the authors' scripts for NLI on XLM-R; 5e-5 for language modelling",
        traps=(
            "the first half of the steps is full fine-tuning: it needs that memory, and trains nothing that is kept",
            "the biases of W_k get no gradient but rounding, which Adam makes as large as any: some enter the mask",
            "the delta is small, the adapted network is as large as its base",
        ),
    )

    entries: Entries = "5%"
    """K, the entries that change: a number, or a share such as 5% (the published 14,155,776 of XLM-R)."""
    freeze_norms: bool = True
    """Whether normalisations stay as they are, in both phases, as in the authors' scripts."""

    @property
    def phases(self) -> int:
        return 2

    def attach(self, base: BaseModel) -> None:
        from peftcli.blocks.masked import attach_sparse  # torch only when something is computed

        attach_sparse(base, self.tensors(base.anatomy), self.number(base.anatomy))

    def begin_phase(self, delta: Delta, phase: int) -> None:
        from peftcli.blocks.masked import keep_largest, places
        from peftcli.blocks.tensor_change import Dense

        tensors = places(delta.blocks_of(self))
        if phase == 0:
            for block, name in tensors:
                block.give(name, Dense(block.start(name)))
        else:
            keep_largest(tensors, self.number(delta.base.anatomy), keep=False)
            delta.reset_head()

    def peft_layout(self, delta: Delta) -> PeftLayout | str:
        """Return peft's SHIRA form, where nothing but weights of linear layers changed."""
        from peftcli.blocks.shira import shira_layout

        return shira_layout(delta)
