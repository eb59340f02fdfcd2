"""Classification of a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from peftcli.data.complaints import raise_all
from peftcli.data.examples import Example, Examples, check_ids, pad_examples
from peftcli.data.tasks.columns import absent, check_roles, require, text_problems
from peftcli.data.tasks.labels import OneLabel
from peftcli.data.tasks.task import Outcome
from peftcli.errors import DataError, Problem

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from peftcli.data.examples import VirtualTokens
    from peftcli.data.tables import Row, Table
    from peftcli.recipe.recipe import DataSection

_CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class Classification(OneLabel):
    """One label for each row.

    The columns are ``text`` (default: the file's ``text``, or ``sentence`` where that is missing), ``text_pair`` if
    the files have it or the recipe names it, and ``label``.
    """

    name: ClassVar[str] = "classification"
    model_class: ClassVar[str] = "AutoModelForSequenceClassification"
    inputs: ClassVar[tuple[str, ...]] = ("text", "text_pair")

    @classmethod
    def from_section(cls, section: DataSection, train: Table) -> Self:
        """Return the task of a recipe; the labels are those it lists, or those of the training rows, sorted."""
        check_roles(section.columns, (*cls.inputs, "label"))
        present = train.columns()
        default = "sentence" if "text" not in present and "sentence" in present else "text"
        pair = {"text_pair": "text_pair"} if "text_pair" in present else {}
        names = {"text": default, **pair, "label": "label", **section.columns}
        require(train, names)
        return cls(column_names=names, max_length=section.max_length).with_labels(section.labels, train)

    def problems(self, table: Table) -> list[Problem]:
        """Return what is wrong with the columns, texts and labels of ``table``."""
        if missing := absent(table, self.column_names):
            return missing
        texts = [text_problems(table, self.column_names[role]) for role in self.inputs if role in self.column_names]
        return [*(problem for problems in texts for problem in problems), *self.label_problems(table)]

    def encode(
        self, table: Table, reader: PreTrainedTokenizerBase, max_length: int, vocabulary: int | None = None
    ) -> Examples:
        """Return the examples; longer texts are cut at the right."""
        raise_all(self.problems(table))
        examples: list[Example] = []
        truncated = 0
        for start in range(0, len(table), _CHUNK):
            found, cut = self._encode(table.rows[start : start + _CHUNK], reader, max_length)
            examples.extend(replace(example, row=start + example.row) for example in found)
            truncated += cut
        check_ids(examples, vocabulary)
        longest = max(example.length for example in examples)
        if longest > max_length:
            what = f"data.max_length is {max_length}, too short for the tokenizer's special tokens"
            raise DataError(what, hint="Write at least 8.")
        tokens = sum(example.length for example in examples)
        counts = {"rows": len(table), "truncated": truncated, "dropped": 0, "tokens": tokens}
        return Examples(examples, {**counts, "supervised": len(examples), "longest": longest})

    def collate(self, examples: Sequence[Example], pad: int, virtual: VirtualTokens | None) -> dict[str, Tensor]:
        """Return the padded ids, and ``labels`` of shape (batch)."""
        import torch

        labels = torch.tensor([example.label for example in examples], dtype=torch.long)
        return {**pad_examples(examples, pad, virtual), "labels": labels}

    def describe(self, row: Row, outcome: Outcome) -> dict[str, Any]:
        """Return the row's texts, its label and the predicted one."""
        texts = {role: row.values[self.column_names[role]] for role in self.inputs if role in self.column_names}
        return {"where": row.where, **texts, **self.named(outcome)}

    def _encode(
        self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> tuple[list[Example], int]:
        texts = [
            [row.values[self.column_names[role]] for row in rows] for role in self.inputs if role in self.column_names
        ]
        encoding = tokenizer(*texts, truncation=True, max_length=max_length, return_attention_mask=False)
        examples = []
        for index, (row, label) in enumerate(zip(rows, self.label_numbers(rows), strict=True)):
            ids = {key: encoding[key][index] for key in ("input_ids", "token_type_ids") if key in encoding}
            examples.append(Example(ids, len(ids["input_ids"]), index, row.where, label))
        return examples, sum(bool(piece.overflowing) for piece in encoding.encodings or ())
