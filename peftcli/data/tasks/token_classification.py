"""Token classification: a tag for every word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from peftcli.data.complaints import SHOWN_PROBLEMS, lines, listed, raise_all
from peftcli.data.examples import IGNORED, Example, Examples, check_ids, pad_examples
from peftcli.data.tasks.answer_logits import answer_logits
from peftcli.data.tasks.columns import absent, check_roles, kind, require
from peftcli.data.tasks.label_names import Labelled
from peftcli.data.tasks.task import Outcome, normalised
from peftcli.data.tasks.whole_texts import check_room
from peftcli.data.words import word_ids
from peftcli.errors import DataError, Problem
from peftcli.metrics.tags import OUTSIDE

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from peftcli.data.examples import VirtualTokens
    from peftcli.data.shown import Shown
    from peftcli.data.tables import Row, Table
    from peftcli.metrics.scored import Scored
    from peftcli.recipe.recipe import DataSection

_TAGS = ("tags", "ner_tags", "labels")


@dataclass(frozen=True, kw_only=True)
class TokenClassification(Labelled):
    """A tag for every word of a row.

    The columns are ``tokens``, a list of words, and ``tags`` (default: the file's ``tags``, ``ner_tags`` or
    ``labels``), as many names of tags, or their places in ``data.labels``. A word is learned and measured by its first
    sub-token, as Devlin et al. (2019) do; words beyond ``max_length`` are cut, counted, and not measured. Tags in IOB2
    (``B-``, ``I-``, ``O``) are measured by the entities that they mark, others word by word (see WordTags).
    """

    name: ClassVar[str] = "token-classification"
    model_class: ClassVar[str] = "AutoModelForTokenClassification"
    inputs: ClassVar[tuple[str, ...]] = ("tokens",)
    answer: ClassVar[str] = "tags"
    select: ClassVar[str] = "f1"
    metric_names: ClassVar[tuple[str, ...]] = ("f1", "precision", "recall", "accuracy", "loss")
    metric_kind: ClassVar[str] = "tags"

    @classmethod
    def from_section(cls, section: DataSection, train: Table) -> TokenClassification:
        """Return the task of a recipe; the tags are those it lists, or those of the training rows, sorted."""
        check_roles(section.columns, ("tokens", "tags"))
        tags = next((name for name in _TAGS if name in train.columns()), "tags")
        names = {"tokens": "tokens", "tags": tags, **section.columns}
        require(train, names)
        # Places need the names that the recipe gives; the rows' own names do not.
        known = cls(column_names=names, max_length=section.max_length, labels=tuple(section.labels or ()))
        return _by_tags(known.with_labels(section.labels, train))

    def labels_in(self, row: Row) -> Sequence[str]:
        """Return the names of the row's tags."""
        tags = row.values.get(self.column_names["tags"])
        return [name for tag in tags if (name := self._name(tag))] if isinstance(tags, list) else []

    def key(self, row: Row) -> str:
        """Return the row's words without case, spacing and Unicode variants."""
        return normalised(" ".join(row.values[self.column_names["tokens"]]))

    def problems(self, table: Table) -> list[Problem]:
        """Return what is wrong with the columns, words and tags of ``table``."""
        if missing := absent(table, self.column_names):
            return missing
        wrong: dict[tuple[str, str | None], list[Row]] = {}
        unknown: dict[str, list[str]] = {}
        known = set(self.labels)
        for row in table.rows:
            if what := self._wrong(row):
                wrong.setdefault(what, []).append(row)
            elif known:
                for tag in dict.fromkeys(self.labels_in(row)):
                    if tag not in known:
                        unknown.setdefault(tag, []).append(row.where)
        problems = [
            Problem(what=f"{what} in {lines([row.where for row in rows])}", where=rows[0].where, hint=hint)
            for (what, hint), rows in list(wrong.items())[:SHOWN_PROBLEMS]
        ]
        return [*self.unknown_problems(unknown, table), *problems]

    def encode(
        self, table: Table, reader: PreTrainedTokenizerBase, max_length: int, vocabulary: int | None = None
    ) -> Examples:
        """Return the examples; what is too long loses its last words."""
        raise_all(self.problems(table))
        examples: list[Example] = []
        words = [row.values[self.column_names["tokens"]] for row in table.rows]
        found = word_ids(reader, words, [row.where for row in table.rows], max_length)
        for index, (row, split) in enumerate(zip(table.rows, found, strict=True)):
            tags = [IGNORED] * len(split.ids["input_ids"])
            for place, number in zip(split.starts, self._numbers(row), strict=False):
                tags[place] = number
            examples.append(Example({**split.ids, "tags": tags}, len(tags), index, row.where))
        check_ids(examples, vocabulary)
        longest = max(example.length for example in examples)
        check_room(longest, max_length)
        kept = [self.items(example) for example in examples]
        if not any(kept):
            what = f"data.max_length is {max_length}, which leaves no word of any row"
            raise DataError(what, hint="Write at least 8.")
        counts = {
            "rows": len(table),
            "truncated": sum(n < len(row) for n, row in zip(kept, words, strict=True)),
            "dropped": 0,
            "tokens": sum(example.length for example in examples),
            "supervised": sum(kept),
            "words_cut": sum(map(len, words)) - sum(kept),
            "longest": longest,
        }
        return Examples(examples, counts)

    def items(self, example: Example) -> int:
        """Return the number of words with a tag."""
        tags = example.ids["tags"]
        return len(tags) - tags.count(IGNORED)

    def collate(self, examples: Sequence[Example], pad: int, virtual: VirtualTokens | None) -> dict[str, Tensor]:
        """Return the padded ids, and ``labels`` of shape (batch, tokens): one at the first sub-token of each word."""
        batch = pad_examples(examples, pad, virtual)
        return {**{key: rows for key, rows in batch.items() if key != "tags"}, "labels": batch["tags"]}

    def shown(self, example: Example, reader: Any) -> Shown:  # noqa: ANN401
        """Return an example as people read it, with the tags of its words in order."""
        tags = [self.labels[tag] for tag in example.ids["tags"] if tag != IGNORED]
        return replace(super().shown(example, reader), label=" ".join(tags))

    def loss(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the cross entropy summed over the words."""
        from torch.nn import functional

        logits = answer_logits(network, batch).flatten(0, 1)
        return functional.cross_entropy(logits, batch["labels"].flatten(), ignore_index=IGNORED, reduction="sum")

    def outcomes(self, network: nn.Module, batch: Mapping[str, Tensor]) -> list[Outcome]:
        """Return the summed loss, the number of words, their tags and the predicted ones of every row."""
        import torch
        from torch.nn import functional

        with torch.no_grad():
            logits, labels = answer_logits(network, batch), batch["labels"]
            losses = functional.cross_entropy(
                logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
            ).sum(1)
            predictions = logits.argmax(-1)
        rows = zip(losses.tolist(), labels, predictions, strict=True)
        return [self._outcome(loss, row[row != IGNORED], found[row != IGNORED]) for loss, row, found in rows]

    def scored(self, outcomes: Sequence[Outcome], names: Sequence[str]) -> dict[str, Scored]:
        """Return F1, precision and recall of entities, the accuracy of tags, and the loss per word."""
        from peftcli.metrics import losses, tags

        found, words = [o["loss"] for o in outcomes], [len(o["tags"]) for o in outcomes]
        actual, predicted = [o["tags"] for o in outcomes], [o["prediction"] for o in outcomes]
        return {
            name: losses.scored(name, found, words) if name == "loss" else tags.scored(name, actual, predicted)
            for name in names
        }

    def answers(self, outcomes: Sequence[Outcome]) -> tuple[list[Any], list[Any]]:
        """Return the predicted tags of every row, and the right ones."""
        return [outcome["prediction"] for outcome in outcomes], [outcome["tags"] for outcome in outcomes]

    def details(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Return precision, recall and F1 of every type of entity."""
        from peftcli.metrics.tags import entity_table

        return {"entities": entity_table([o["tags"] for o in outcomes], [o["prediction"] for o in outcomes])}

    def signature(self, metric: str) -> str:
        """Return how exactly a metric is computed."""
        return "cross entropy in nats, the mean over words" if metric == "loss" else super().signature(metric)

    def asking(self, text: str) -> dict[str, Any]:
        """Return the values of a row that asks about ``text``, cut at white space."""
        return {self.column_names["tokens"]: text.split()}

    def some_answer(self, row: Row) -> list[str] | None:
        """Return a tag for every word; None where there are none."""
        words = row.values.get(self.column_names["tokens"])
        return [self.labels[0]] * len(words) if isinstance(words, list) else None

    def describe(self, row: Row, outcome: Outcome) -> dict[str, Any]:
        """Return the row's words, their tags and the predicted ones, which end where the row was cut."""
        words = row.values[self.column_names["tokens"]]
        told = {key: outcome[key] for key in ("tags", "prediction")}
        return {"where": row.where, "tokens": words, **told, "loss": outcome["loss"] / max(1, len(outcome["tags"]))}

    def _outcome(self, loss: float, tags: Tensor, found: Tensor) -> Outcome:
        named = {key: [self.labels[n] for n in side.tolist()] for key, side in (("tags", tags), ("prediction", found))}
        return {"loss": loss, **named}

    def _numbers(self, row: Row) -> list[int]:
        numbers = {label: number for number, label in enumerate(self.labels)}
        return [numbers[name] for name in self.labels_in(row)]

    def _name(self, tag: object) -> str | None:
        """Return the name of a tag that is given as itself or by its place; None for what is none."""
        if isinstance(tag, int) and not isinstance(tag, bool):
            return self.labels[tag] if 0 <= tag < len(self.labels) else None
        return tag if isinstance(tag, str) and tag else None

    def _wrong(self, row: Row) -> tuple[str, str | None] | None:
        """Return what is wrong with a row, and what may help."""
        words, tags = (row.values.get(self.column_names[role]) for role in ("tokens", "tags"))
        for role, found in (("words", words), ("tags", tags)):
            column = self.column_names["tokens" if role == "words" else "tags"]
            if not isinstance(found, list):
                return f"column {column!r} is {kind(found)}, not a list of {role},", f"Write a list of {role} in JSON."
        assert isinstance(words, list)
        assert isinstance(tags, list)
        if not words:
            return f"column {self.column_names['tokens']!r} has no words", "Leave empty sentences out."
        if len(words) != len(tags):
            return f"there are {len(words)} words but {len(tags)} tags", "Every word has one tag."
        if not all(isinstance(word, str) and word.strip() for word in words):
            return f"column {self.column_names['tokens']!r} has a word that is no text or blank", None
        bad = next((tag for tag in tags if self._name(tag) is None), "")
        if bad == "":
            return None
        numbered = isinstance(bad, int) and not isinstance(bad, bool)
        hint = "data.labels names the tags in the order of their numbers." if numbered else "A tag is a text."
        return f"column {self.column_names['tags']!r} has {bad!r}, which names no tag,", hint


@dataclass(frozen=True, kw_only=True)
class WordTags(TokenClassification):
    """Token classification with tags that mark no entities, such as parts of speech: measured word by word."""

    name: ClassVar[str] = "word-tags"
    select: ClassVar[str] = "accuracy"
    metric_names: ClassVar[tuple[str, ...]] = ("accuracy", "loss")

    def details(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Return precision, recall and F1 of every tag."""
        import numpy as np

        from peftcli.metrics.classes import class_table

        numbers = {label: number for number, label in enumerate(self.labels)}
        tags, found = (np.array([numbers[tag] for o in outcomes for tag in o[key]]) for key in ("tags", "prediction"))
        return {"classes": class_table(tags, found, self.labels)}


def _by_tags(task: TokenClassification) -> TokenClassification:
    """Return the task that measures entities where the tags mark some, and words otherwise.

    Raises:
        DataError: Some tags are of IOB2, and some are not.
    """
    marks = {label for label in task.labels if label[:2] in ("B-", "I-")}
    others = sorted(set(task.labels) - marks - {OUTSIDE})
    if marks and others:
        what = f"the tags {listed(others)} are not of IOB2, but {listed(sorted(marks))} are"
        raise DataError(what, hint="Write B- where an entity begins, I- where it goes on, and O outside.")
    if marks:
        return task
    return WordTags(column_names=task.column_names, max_length=task.max_length, labels=task.labels)
