"""ŷ = argmax_c log p(word of c | k training rows with their words, the row): in-context learning.

Few-shot in-context learning of Brown et al., "Language Models are Few-Shot Learners", 2020, arXiv:2005.14165, section
2.1. The demonstrations are drawn with the seed, as many of each label as can be (``balanced``), or they are those
nearest to the row by the cosine of TF-IDF vectors, the nearest next to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from peftcli.delta.method import Card
from peftcli.methods.zero_shot import ZeroShot

if TYPE_CHECKING:
    from peftcli.data.tasks.label_likelihood import LabelLikelihood
    from peftcli.delta.untrained import Frozen


class FewShot(ZeroShot):
    """The un-tuned language model behind a few solved rows; what does not fit its context is left out, and counted."""

    card = Card(
        title="Few-shot in-context learning",
        family="baseline",
        paper="2005.14165",
        size_setting=None,
        mergeable=False,
        starts_at_base=True,
        learning_rate=0.0,
        source="no gradient is taken",
        traps=(
            "it moves with which rows are shown and in what order: run several seeds",
            "demonstrations that do not fit data.max_length are left out: the report counts them",
        ),
    )

    shots: Annotated[int, Field(ge=1)] = 4
    """How many training rows are shown, over all labels."""
    demonstrations: Literal["random", "balanced", "nearest"] = "balanced"
    """Which: drawn with the seed, drawn as many of each label as can be, or those most like the row."""
    pool: Annotated[int, Field(ge=1)] = 500
    """For nearest: training rows, drawn with the seed, among which they are sought; the run keeps them."""
    separator: str = "\n\n"
    """What stands between demonstrations, and before the row."""

    @model_validator(mode="after")
    def _one_context(self) -> Self:
        """Refuse a calibration of demonstrations that every row has others of."""
        if self.score == "calibrated" and self.demonstrations == "nearest":
            what = "score calibrated wants the same demonstrations for all rows, and nearest chooses them for each"
            raise PydanticCustomError("few_shot", "{what}", {"what": what, "hint": "Write demonstrations: balanced."})
        return self

    def shown(self, task: LabelLikelihood, frozen: Frozen) -> LabelLikelihood:
        """Return the task with its demonstrations, or with those among which the nearest are sought."""
        rows, seed, near = frozen.train.rows, frozen.seed, self.demonstrations == "nearest"
        if self.demonstrations == "balanced":
            places = balanced([task.stratum(row) for row in rows], self.shots, seed)
        else:
            places = drawn(len(rows), self.pool if near else self.shots, seed)
        return replace(
            task,
            demonstrations=tuple(task.demonstration(rows[place]) for place in places),
            nearest=self.shots if near else None,
            separator=self.separator,
        )


def drawn(count: int, wanted: int, seed: int) -> list[int]:
    """Return ``wanted`` places of ``count``, as the seed draws them."""
    from peftcli.data.permutation import permutation

    return permutation(count, f"{seed}:demonstrations")[:wanted]


def balanced(labels: Sequence[str], wanted: int, seed: int) -> list[int]:
    """Return ``wanted`` places: one of each label in turn, in an order that the seed draws."""
    order = drawn(len(labels), len(labels), seed)
    waiting: dict[str, list[int]] = {}
    for place in order:
        waiting.setdefault(labels[place], []).append(place)
    turns = max(map(len, waiting.values()))
    return [group[turn] for turn in range(turns) for group in waiting.values() if turn < len(group)][:wanted]
