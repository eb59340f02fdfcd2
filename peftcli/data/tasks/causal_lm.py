"""Language modelling: of completions, answers in a conversation, or whole texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self, get_args

from peftcli.data.chat_template import read_template
from peftcli.data.complaints import lines, raise_all
from peftcli.data.examples import IGNORED, Example, Examples, check_ids, pad_examples
from peftcli.data.formats import Format, Rendering, Segment, TrainOn, find_format, format_of
from peftcli.data.segments import Frame, apart, joined
from peftcli.data.tasks.columns import absent, require, text_problems
from peftcli.data.tasks.generating import Generating
from peftcli.data.tasks.labelled_logits import labelled_logits
from peftcli.data.tasks.task import normalised
from peftcli.errors import ArtifactError, DataError, Problem, RecipeError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from peftcli.data.examples import VirtualTokens
    from peftcli.data.tables import Row, Table
    from peftcli.recipe.recipe import DataSection

_CHUNK = 1024
_MOST_DROPPED = 0.01
_REFERENCES = "references"


@dataclass(frozen=True, kw_only=True)
class CausalLm(Generating):
    """Rows of one format (see data.formats), found from their columns or from those that the recipe names.

    What stands before an answer becomes the tokens that generation is given, and the labels are exactly the answer and
    its end: of every answer of a row, of the last one, or (``data.train_on: all``) of everything. A row that is too
    long loses of its prompt, never of an answer that is learned; what that is, its format says.
    """

    name: ClassVar[str] = "causal-lm"
    model_class: ClassVar[str] = "AutoModelForCausalLM"
    inputs: ClassVar[tuple[str, ...]] = ()
    answer: ClassVar[str] = "completion"
    settings: ClassVar[tuple[str, ...]] = ("train_on", "chat_template")

    train_on: TrainOn = "completion"
    chat_template: str | None = None

    @classmethod
    def from_section(cls, section: DataSection, train: Table) -> Self:
        """Return the task of a recipe."""
        references = {r: name for r, name in section.columns.items() if r == _REFERENCES}
        named = {r: name for r, name in section.columns.items() if r != _REFERENCES}
        present = train.columns()
        form = find_format(named, present)
        names = form.names(present, named)
        if section.chat_template is not None and not form.templated:
            what = f"data.chat_template means nothing for rows of {' and '.join(names.values())}"
            raise RecipeError(what, hint="It is what rows of messages or conversations are written with.")
        task = cls(
            column_names={**names, **references},
            max_length=section.max_length,
            train_on=section.train_on,
            chat_template=section.chat_template and read_template(section.chat_template),
        )
        require(train, task._needed)
        return task

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self:
        """Return the task that :meth:`manifest` described."""
        task = super().from_manifest(manifest)
        train_on, template = manifest.get("train_on", "completion"), manifest.get("chat_template")
        if format_of(task.text_columns) is None:
            raise ArtifactError(f"the artifact's task has the columns {dict(task.column_names)!r}")
        if train_on not in get_args(TrainOn) or not isinstance(template, str | None):
            raise ArtifactError(f"the artifact's task has the train_on {train_on!r} or no text for a chat_template")
        return replace(task, train_on=train_on, chat_template=template)

    def manifest(self) -> dict[str, Any]:
        """Return what must be known to measure a delta later, for JSON."""
        return {**super().manifest(), "train_on": self.train_on, "chat_template": self.chat_template}

    @cached_property
    def format(self) -> Format:
        """The format of the rows."""
        form = format_of(self.text_columns)
        assert form is not None, "columns come from a format"
        return form(columns=self.text_columns, train_on=self.train_on, chat_template=self.chat_template)

    @property
    def _needed(self) -> dict[str, str]:
        names = {*self.format.required, *self.format.texts}
        return {role: name for role, name in self.text_columns.items() if role in names}

    def problems(self, table: Table) -> list[Problem]:
        """Return what is wrong with the columns and texts of ``table``."""
        if missing := absent(table, self._needed):
            return missing
        form = self.format
        roles = [role for role in form.texts if role in form.columns]
        texts = [text_problems(table, form.columns[role], blank=role in form.blank) for role in roles]
        return [*(p for found in texts for p in found), *form.problems(table), *self.reference_problems(table)]

    def key(self, row: Row) -> str:
        """Return the normalised question, or the text of a row without one."""
        return "\0".join(normalised(text) for text in self.format.question(row))

    def references(self, row: Row) -> tuple[str, ...]:
        """Return the texts that ``row`` allows as an answer: its ``references``, or else its last answer."""
        if row.values.get(self.column_names.get(_REFERENCES, _REFERENCES)) is not None:
            return super().references(row)
        return (self.format.answered(row),)

    def encode(
        self, table: Table, reader: PreTrainedTokenizerBase, max_length: int, vocabulary: int | None = None
    ) -> Examples:
        """Return the examples; rows whose answer does not fit are left out, and refused if more than 1 %."""
        raise_all(self.problems(table))
        frame = Frame.of(reader, max_length, self.format)
        examples: list[Example] = []
        dropped: list[str] = []
        truncated = 0
        for start in range(0, len(table), _CHUNK):
            rows = table.rows[start : start + _CHUNK]
            for index, (example, shortened) in enumerate(self._examples(rows, reader, frame)):
                if example is None:
                    dropped.append(rows[index].where)
                else:
                    examples.append(replace(example, row=start + index, references=self.references(rows[index])))
                    truncated += shortened
        _check_dropped(dropped, len(table), max_length, self.format.learned)
        check_ids(examples, vocabulary)
        return Examples(examples, self._counts(examples, len(table), truncated))

    def _examples(
        self, rows: Sequence[Row], reader: PreTrainedTokenizerBase, frame: Frame
    ) -> Iterator[tuple[Example | None, bool]]:
        """Yield the example of each row, None where the row does not fit; and whether some of it was left out."""
        tokens = joined if self.format.templated else apart
        forms = [self.format.renderings(row, reader) for row in rows]
        whole = [next(form) for form in forms]
        for row, rendering, ids, shorter in zip(rows, whole, tokens(reader, whole), forms, strict=True):
            fitted = frame.fit(rendering, ids)
            shortened = fitted is None or fitted.cut
            while fitted is None and (other := next(shorter, None)):
                fitted = frame.fit(other, tokens(reader, [other])[0])
            if fitted is None:
                yield None, False
            else:
                given = {"input_ids": fitted.ids, "labels": fitted.labels}
                yield Example(given, len(fitted.ids), 0, row.where, prompt=fitted.prompt), shortened

    def asked(
        self, table: Table, reader: PreTrainedTokenizerBase, max_length: int, vocabulary: int | None = None
    ) -> Examples:
        form = self.format
        names = {role: form.columns[role] for role in form.asks if role in form.columns}
        raise_all(absent(table, names))
        texts = [text_problems(table, names[r], blank=r in form.blank) for r in names if r in form.texts]
        raise_all(
            [*(p for found in texts for p in found), *form.asked_problems(table), *self.reference_problems(table)]
        )
        frame = Frame.of(reader, max_length, form)
        prompts = [Rendering((Segment(form.asked(row, reader)),)) for row in table.rows]
        examples = []
        for index, (row, (found,)) in enumerate(zip(table.rows, apart(reader, prompts), strict=True)):
            start = frame.start if found else frame.lone_start
            ids = start + found[max(0, len(found) + len(start) + 1 - max_length) :]  # one token follows at least
            given = {"input_ids": ids, "labels": [IGNORED] * len(ids)}
            known = self.known(row)
            examples.append(Example(given, len(ids), index, row.where, references=known, prompt=len(ids)))
        check_ids(examples, vocabulary)
        return Examples(examples, {"rows": len(table)})

    def asking(self, text: str) -> dict[str, Any]:
        """Return the values of a row that asks about ``text``."""
        return self.format.asking(text)

    def question(self, row: Row) -> dict[str, Any]:
        """Return what is asked in ``row``."""
        form = self.format
        return {role: row.values[n] for role, n in form.columns.items() if role != form.answer and n in row.values}

    def known(self, row: Row) -> tuple[str, ...]:
        """Return the texts that ``row`` allows as an answer, if it says any."""
        if row.values.get(self.column_names.get(_REFERENCES, _REFERENCES)) is not None:
            return super().references(row)
        answer = self.format.known(row)
        return () if answer is None else (answer,)

    def prompted(self, example: Example) -> Example:
        """Return what a text is generated from: all that stands before the last answer."""
        end = example.prompt
        if end is None:
            return super().prompted(example)
        return replace(example, ids={key: ids[:end] for key, ids in example.ids.items()}, length=end)

    def told(self, examples: Examples) -> str:
        """Return how long the examples are, and how many of their tokens are learned."""
        share = examples.counts["supervised"] / examples.counts["tokens"]
        return f"{super().told(examples)}, {100 * share:.3g} % of them supervised"

    def items(self, example: Example) -> int:
        """Return the number of tokens with a label."""
        labels = example.ids["labels"]
        return len(labels) - labels.count(IGNORED)

    def collate(self, examples: Sequence[Example], pad: int, virtual: VirtualTokens | None) -> dict[str, Tensor]:
        """Return the padded ids and labels, and ``positions``: where in (batch x tokens) the next token has a label."""
        batch = pad_examples(examples, pad, virtual)
        # The first token of a row has no label, so the position before one with a label is in the same row.
        labelled = (batch["labels"].flatten() != IGNORED).nonzero().squeeze(1)
        return {**batch, "positions": labelled - 1}

    def token_losses(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the cross entropy of every labelled token. Shapes: (labelled tokens)."""
        from torch.nn import functional

        inputs = {key: value for key, value in batch.items() if key not in ("labels", "positions")}
        logits = labelled_logits(network, inputs, batch["positions"])
        targets = batch["labels"].flatten()[batch["positions"] + 1]
        return functional.cross_entropy(logits.float(), targets, reduction="none")

    def _counts(self, examples: Sequence[Example], rows: int, truncated: int) -> dict[str, int]:
        return {
            "rows": rows,
            "truncated": truncated,
            "dropped": rows - len(examples),
            "tokens": sum(example.length for example in examples),
            "supervised": sum(map(self.items, examples)),
            "longest": max(example.length for example in examples),
        }


def _check_dropped(dropped: Sequence[str], rows: int, max_length: int, learned: str) -> None:
    if len(dropped) == rows or len(dropped) > _MOST_DROPPED * rows:
        what = f"{learned} alone is longer than {max_length} tokens in {lines(dropped)} of {rows}"
        raise DataError(what, where=dropped[0], hint="Raise data.max_length, or leave these rows out.")
