"""Tasks with one answer to a whole text or a pair of texts: how the texts become ids."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, get_args

from peftcli.data.complaints import raise_all
from peftcli.data.examples import Example, Examples, check_ids, pad_examples
from peftcli.data.tasks.columns import absent, check_roles, require, text_problems
from peftcli.data.tasks.task import Outcome, Task
from peftcli.errors import ArtifactError, DataError, Problem
from peftcli.recipe.recipe import Pooling

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from peftcli.data.examples import Label, VirtualTokens
    from peftcli.data.tables import Row, Table
    from peftcli.recipe.recipe import DataSection

_CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class WholeTexts(Task):
    """A task of the columns ``text``, optional ``text_pair``, and ``label``; what a label is, each task says."""

    model_class: ClassVar[str] = "AutoModelForSequenceClassification"
    new_head: ClassVar[bool] = True
    inputs: ClassVar[tuple[str, ...]] = ("text", "text_pair")

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self:
        """Return the task that :meth:`manifest` described."""
        pooling = manifest.get("pooling", "base")
        if pooling not in get_args(Pooling):
            raise ArtifactError(f"the artifact's task has the pooling {pooling!r}")
        return replace(super().from_manifest(manifest), pooling=pooling)

    def manifest(self) -> dict[str, Any]:
        """Return what must be known to measure a delta later, for JSON."""
        return {**super().manifest(), "pooling": self.pooling}

    @abstractmethod
    def label_problems(self, table: Table) -> list[Problem]:
        """Return what is wrong with the labels of ``table``."""

    @abstractmethod
    def label_numbers(self, rows: Sequence[Row]) -> Sequence[Label]:
        """Return the labels of rows that have no problems, as the network learns them."""

    @abstractmethod
    def named(self, outcome: Outcome) -> dict[str, Any]:
        """Return what is told of an outcome."""

    @classmethod
    def columns_of(cls, section: DataSection, train: Table) -> dict[str, str]:
        """Return the columns of a recipe: ``text`` is the file's ``sentence`` where it has no ``text``.

        Raises:
            RecipeError: ``data.columns`` names others than the task's.
            DataError: A column is not in the files.
        """
        check_roles(section.columns, (*cls.inputs, "label"))
        present = train.columns()
        default = "sentence" if "text" not in present and "sentence" in present else "text"
        pair = {"text_pair": "text_pair"} if "text_pair" in present else {}
        names = {"text": default, **pair, "label": "label", **section.columns}
        require(train, names)
        return names

    def problems(self, table: Table) -> list[Problem]:
        """Return what is wrong with the columns, texts and labels of ``table``."""
        if missing := absent(table, self.column_names):
            return missing
        texts = [text_problems(table, self.column_names[role]) for role in self._roles()]
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
        check_room(longest, max_length)
        tokens = sum(example.length for example in examples)
        counts = {"rows": len(table), "truncated": truncated, "dropped": 0, "tokens": tokens}
        return Examples(examples, {**counts, "supervised": len(examples), "longest": longest})

    def items(self, example: Example) -> int:
        """Return 1: the loss is averaged over rows."""
        del example
        return 1

    def collate(self, examples: Sequence[Example], pad: int, virtual: VirtualTokens | None) -> dict[str, Tensor]:
        """Return the padded ids, and ``labels`` with one row for each example."""
        return {**pad_examples(examples, pad, virtual), "labels": self.targets([e.label for e in examples])}

    def targets(self, labels: Sequence[Any]) -> Tensor:
        """Return the labels of a batch as the loss takes them. Shapes: (batch)."""
        import torch

        return torch.tensor(labels, dtype=torch.long)

    def describe(self, row: Row, outcome: Outcome) -> dict[str, Any]:
        """Return the row's texts, its label and the predicted one."""
        texts = {role: row.values[self.column_names[role]] for role in self._roles()}
        return {"where": row.where, **texts, **self.named(outcome)}

    def _roles(self) -> list[str]:
        return [role for role in self.inputs if role in self.column_names]

    def _encode(
        self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> tuple[list[Example], int]:
        texts = [[row.values[self.column_names[role]] for row in rows] for role in self._roles()]
        encoding = tokenizer(*texts, truncation=True, max_length=max_length, return_attention_mask=False)
        examples = []
        for index, (row, label) in enumerate(zip(rows, self.label_numbers(rows), strict=True)):
            ids = {key: encoding[key][index] for key in ("input_ids", "token_type_ids") if key in encoding}
            examples.append(Example(ids, len(ids["input_ids"]), index, row.where, label))
        return examples, sum(bool(piece.overflowing) for piece in encoding.encodings or ())


def check_room(longest: int, max_length: int) -> None:
    """Check that ``max_length`` leaves room for what a tokenizer puts around every text.

    Raises:
        DataError: Some row is longer, although texts were cut.
    """
    if longest > max_length:
        what = f"data.max_length is {max_length}, too short for the tokenizer's special tokens"
        raise DataError(what, hint="Write at least 8.")
