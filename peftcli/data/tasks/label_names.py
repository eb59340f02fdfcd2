"""Answers that have names: which labels there are, in which order, and what is said of one that is unknown."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from peftcli.data.complaints import SHOWN_PROBLEMS, did_you_mean, lines, listed
from peftcli.data.tasks.task import Outcome, Task
from peftcli.errors import ArtifactError, DataError, Problem, RecipeError

if TYPE_CHECKING:
    from peftcli.data.tables import Row, Table


@dataclass(frozen=True, kw_only=True)
class Labelled(Task):
    """A task whose answers are labels.

    Labels are text, whole numbers or true and false; their numbers for the network are their places in ``labels``.

    Attributes:
        problem_type: What the network's configuration calls the kind of its answers; empty where it has no name for it.
    """

    new_head: ClassVar[bool] = True
    settings: ClassVar[tuple[str, ...]] = ("labels",)
    problem_type: ClassVar[str] = ""

    labels: tuple[str, ...] = ()

    @abstractmethod
    def labels_in(self, row: Row) -> Sequence[str]:
        """Return the labels of ``row``, those left out that cannot be one."""

    def with_labels(self, given: Sequence[str] | None, train: Table) -> Self:
        """Return the task with the labels that the recipe lists, or those of the training rows, sorted.

        Raises:
            RecipeError: The recipe lists one label, or one twice.
            DataError: The rows hold fewer than two.
        """
        return replace(self, labels=_checked(given) if given else self._found(train))

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self:
        """Return the task that :meth:`manifest` described."""
        labels = manifest.get("labels")
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels) or len(labels) < 2:
            raise ArtifactError(f"the artifact's task has the labels {labels!r}")
        return replace(super().from_manifest(manifest), labels=tuple(labels))

    def manifest(self) -> dict[str, Any]:
        """Return what must be known to measure a delta later, for JSON."""
        return {**super().manifest(), "labels": list(self.labels)}

    def network_settings(self) -> dict[str, Any]:
        """Return the labels as a network's configuration holds them."""
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: number for number, label in enumerate(self.labels)},
            **({"problem_type": self.problem_type} if self.problem_type else {}),
        }

    def named_shares(self, outcome: Outcome) -> dict[str, Any]:
        """Return the probability of every label by its name, where an outcome has them."""
        shares = outcome.get("probabilities")
        return {} if shares is None else {"probabilities": dict(zip(self.labels, shares, strict=True))}

    def unknown_problems(self, unknown: Mapping[str, Sequence[str]], table: Table) -> list[Problem]:
        """Return a problem for each of the first labels that ``unknown`` gives the places of."""
        problems = [self._unknown(label, places) for label, places in list(unknown.items())[:SHOWN_PROBLEMS]]
        if len(unknown) > SHOWN_PROBLEMS:
            what = f"{len(unknown)} labels are unknown in all, of which the first {SHOWN_PROBLEMS} are shown"
            problems.append(Problem(what=what, where=table.files[0].path))
        return problems

    def _found(self, train: Table) -> tuple[str, ...]:
        found = {label for row in train.rows for label in self.labels_in(row)}
        if len(found) < 2:
            column = self.column_names[self.answer]
            only = Problem(
                what=f"column {column!r} holds {len(found)} label{'s' * (len(found) != 1)}: {listed(found) or 'none'}",
                where=train.files[0].path,
                hint="A classification has at least two.",
            )
            raise DataError(self.problems(train) or [only])
        numeric = all(label.removeprefix("-").isdecimal() and str(int(label)) == label for label in found)
        return tuple(sorted(found, key=int) if numeric else sorted(found))

    def _unknown(self, label: str, places: Sequence[str]) -> Problem:
        hint = f"{did_you_mean(label, self.labels)}The labels are {listed(self.labels)}."
        if label == "-1":
            hint = "-1 stands for labels that are kept secret: measure on rows that have theirs."
        return Problem(what=f"label {label!r} is unknown in {lines(places)}", where=places[0], hint=hint)


def with_shares(outcomes: Sequence[Outcome], shares: Sequence[Sequence[float]]) -> list[Outcome]:
    """Return the outcomes with the probability of every label."""
    return [one | {"probabilities": own} for one, own in zip(outcomes, shares, strict=True)]


def label_text(value: object) -> str | None:
    """Return a label as text, or None for what is no label."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return value if isinstance(value, str) and value else None


def _checked(labels: Sequence[str]) -> tuple[str, ...]:
    if len(set(labels)) != len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise RecipeError(f"data.labels names {twice!r} twice")
    if len(labels) < 2:
        raise RecipeError(f"data.labels is {list(labels)}, but a classification has at least two labels")
    return tuple(labels)
