"""ŷ = argmax_c n_c: the most frequent answer of the training rows, whatever the row says.

Not a word of a row is read, so whatever scores no better has learned nothing of it. The loss is that of the label
frequencies p(c) = (n_c + 1) / (n + classes), so that a label which the training rows lack costs no infinity.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from peftcli.delta.method import Card
from peftcli.delta.untrained import Untrained
from peftcli.errors import MethodError

if TYPE_CHECKING:
    from peftcli.data.tasks.task import Task
    from peftcli.delta.untrained import Frozen


class Majority(Untrained):
    """The most frequent label; where any number of labels fits, those that most rows have; of numbers, the mean."""

    card = Card(
        title="Majority class (or mean)",
        family="baseline",
        paper=None,
        size_setting=None,
        mergeable=False,
        starts_at_base=True,
        learning_rate=0.0,
        source="no gradient is taken",
        traps=("on classes of unequal size its accuracy is high and its macro F1 is not",),
    )
    network_class: ClassVar[str] = "AutoModel"

    def reframed(self, task: Task) -> Task:
        from peftcli.data.tasks.prior import Prior, has_prior

        if not has_prior(task):
            raise MethodError(
                f"majority has no answer to {task.name}: its rows have no one label or number each",
                hint="Use it for classification or regression.",
            )
        return Prior.around(task)

    def learned(self, task: Task, frozen: Frozen) -> Task:
        from peftcli.data.tasks.prior import Prior, prior_scores

        assert isinstance(task, Prior)
        return replace(task, constant=prior_scores(task.of, frozen.train.rows))
