"""ŷ = argmax_c log p(word of c | the row as a prompt): a language model classifies as it is.

Zero-shot in-context learning of Brown et al., "Language Models are Few-Shot Learners", 2020, arXiv:2005.14165, section
2.4: every label has a word, and the label is predicted whose word is the likeliest continuation; ``score: length``
divides by the word's tokens. ``score: calibrated`` is contextual calibration (Zhao et al. 2021): with p(c) normalised
over the labels, p(c | row) is divided by the mean p(c) of inputs that say nothing, such as N/A, in place of the row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from peftcli.delta.method import Card
from peftcli.delta.untrained import Untrained
from peftcli.errors import MethodError, RecipeError

if TYPE_CHECKING:
    from peftcli.data.tables import Table
    from peftcli.data.tasks.label_likelihood import LabelLikelihood
    from peftcli.data.tasks.task import Task
    from peftcli.delta.untrained import Frozen

Text = Annotated[str, Field(min_length=1)]


class ZeroShot(Untrained):
    """The un-tuned language model, asked in words; of several templates, training rows choose one."""

    card = Card(
        title="Zero-shot by label likelihood",
        family="baseline",
        paper="2005.14165",
        size_setting=None,
        mergeable=False,
        starts_at_base=True,
        learning_rate=0.0,
        source="no gradient is taken",
        traps=(
            "it moves by many points from one template to another: give several, and look at their spread",
            "labels such as 0 and 1 are no words: name some with method.words",
        ),
    )
    network_class: ClassVar[str] = "AutoModelForCausalLM"
    example_base: ClassVar[str] = "openai-community/gpt2"

    template: Text | Annotated[list[Text], Field(min_length=1)] | None = None
    """How a row is written, {text} (and {text_pair}) in it and {label} at its end; a list: training rows choose."""
    words: dict[str, Text] = {}
    """The word of a label; default: its name."""
    score: Literal["sum", "length", "calibrated"] = "sum"
    """log p of a word: summed over its tokens, divided by their number, or less that of an input that says nothing."""
    content_free: Annotated[list[str], Field(min_length=1)] = ["N/A"]
    """For calibrated: the inputs that say nothing; their probabilities are averaged."""
    selection_rows: Annotated[int, Field(ge=1)] = 128
    """With several templates: training rows, drawn with the seed, on which they are told apart."""

    def reframed(self, task: Task) -> Task:
        from peftcli.data.complaints import did_you_mean, listed
        from peftcli.data.tasks.label_likelihood import LabelLikelihood
        from peftcli.data.tasks.labels import OneLabel
        from peftcli.data.tasks.prompts import Template

        if not isinstance(task, OneLabel) or task.reads != "text":
            raise MethodError(
                f"{self.name} has no answer to {task.name}: it chooses among the labels of a text",
                hint="Use it for classification.",
            )
        if unknown := next((label for label in self.words if label not in task.labels), None):
            hint = f"{did_you_mean(unknown, task.labels)}The labels are {listed(task.labels)}."
            raise RecipeError(f"method.words names {unknown!r}, which is no label", hint=hint)
        words = tuple(self.words.get(label, label) for label in task.labels)
        if len(set(words)) < len(words):
            raise RecipeError("method.words gives two labels the same word", hint="Write another word for one of them.")
        asked = LabelLikelihood.around(
            task, template="", words=words, score="length" if self.score == "length" else "sum"
        )
        for text in self.templates(asked.roles):
            Template(text).check(asked.roles)
        return replace(asked, template=self.templates(asked.roles)[0])

    def learned(self, task: Task, frozen: Frozen) -> Task:
        from peftcli.data.permutation import permutation
        from peftcli.data.tasks.label_likelihood import LabelLikelihood

        assert isinstance(task, LabelLikelihood)
        shown = self.shown(task, frozen)
        tasks = [replace(shown, template=text) for text in self.templates(task.roles)]
        if self.score == "calibrated":
            tasks = [self.calibrated(one, frozen) for one in tasks]
        if len(tasks) == 1:
            return tasks[0]
        order = permutation(len(frozen.train), f"{frozen.seed}:selection")
        rows = frozen.train.taken(sorted(order[: self.selection_rows]))
        trials = [_trial(one, rows, frozen) for one in tasks]
        best = max(range(len(tasks)), key=lambda n: (trials[n][task.select], -n))
        return replace(tasks[best], trials=tuple(trials))

    def templates(self, roles: Sequence[str]) -> list[str]:
        """Return the templates: the recipe's, or the columns one below the other and the label behind them."""
        if self.template is None:
            return ["".join(f"{{{role}}}\n" for role in roles) + "Label: {label}"]
        return [self.template] if isinstance(self.template, str) else list(self.template)

    def shown(self, task: LabelLikelihood, frozen: Frozen) -> LabelLikelihood:
        """Return the task with its demonstrations: none."""
        return task

    def calibrated(self, task: LabelLikelihood, frozen: Frozen) -> LabelLikelihood:
        """Return the task with what it says of inputs that say nothing."""
        from peftcli.data.tables import Row, Table

        names = {task.column_names[role] for role in task.roles}
        label = task.column_names["label"]
        rows = [
            Row({**dict.fromkeys(names, text), label: one}, f"method.content_free {text!r}")
            for text in self.content_free
            for one in task.labels
        ]
        # The loss of a row with a label is -log p(label), normalised over the labels.
        losses = [o["loss"] for o in frozen.ask(task, Table(rows, frozen.train.files), task.outcomes)]
        count = len(task.labels)
        means = [math.fsum(math.exp(-loss) for loss in losses[n::count]) / len(self.content_free) for n in range(count)]
        return replace(task, content_free=tuple(math.log(max(mean, 1e-300)) for mean in means))


def _trial(task: LabelLikelihood, rows: Table, frozen: Frozen) -> dict[str, Any]:
    outcomes = frozen.ask(task, rows, task.outcomes)
    return {"template": task.template, **task.metrics(outcomes, ["accuracy", "loss"]), "n": len(rows)}
