"""From a text to a text with an encoder-decoder: translation, summaries, text from data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from peftcli.data.complaints import lines, raise_all
from peftcli.data.examples import IGNORED, Example, Examples, check_ids, pad_examples
from peftcli.data.tasks.columns import absent, check_roles, require, text_problems
from peftcli.data.tasks.generating import Generating
from peftcli.data.tasks.labelled_logits import labelled_logits
from peftcli.errors import ArtifactError, DataError, Problem

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from peftcli.data.examples import VirtualTokens
    from peftcli.data.tables import Row, Table
    from peftcli.recipe.recipe import DataSection

_CHUNK = 4096
_MOST_DROPPED = 0.01


@dataclass(frozen=True, kw_only=True)
class Seq2Seq(Generating):
    """A target for each input.

    The columns are ``input``, ``target`` and, optional, ``references``: a list of texts that are all right, with which
    a generated text is compared. The encoder reads the prefix (``data.source_prefix``) and the input, as the tokenizer
    itself frames a text; the labels are the target and the end of the text. An input that is too long loses its end;
    a row whose target does not fit into ``max_length`` is left out.
    """

    name: ClassVar[str] = "seq2seq"
    model_class: ClassVar[str] = "AutoModelForSeq2SeqLM"
    inputs: ClassVar[tuple[str, ...]] = ("input",)
    answer: ClassVar[str] = "target"
    settings: ClassVar[tuple[str, ...]] = ("source_prefix",)

    source_prefix: str = ""

    @classmethod
    def from_section(cls, section: DataSection, train: Table) -> Self:
        """Return the task of a recipe."""
        check_roles(section.columns, ("input", "target", "references"))
        names = {"input": "input", "target": "target", **section.columns}
        task = cls(column_names=names, max_length=section.max_length, source_prefix=section.source_prefix)
        require(train, task.text_columns)
        return task

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self:
        """Return the task that :meth:`manifest` described."""
        prefix = manifest.get("source_prefix", "")
        if not isinstance(prefix, str):
            raise ArtifactError(f"the artifact's task has the source_prefix {prefix!r}")
        return replace(super().from_manifest(manifest), source_prefix=prefix)

    def manifest(self) -> dict[str, Any]:
        """Return what must be known to measure a delta later, for JSON."""
        return {**super().manifest(), "source_prefix": self.source_prefix}

    def problems(self, table: Table) -> list[Problem]:
        """Return what is wrong with the columns and texts of ``table``."""
        if missing := absent(table, self.text_columns):
            return missing
        texts = [problem for name in self.text_columns.values() for problem in text_problems(table, name)]
        return [*texts, *self.reference_problems(table)]

    def encode(
        self, table: Table, reader: PreTrainedTokenizerBase, max_length: int, vocabulary: int | None = None
    ) -> Examples:
        """Return the examples; rows whose target does not fit are left out, and refused if more than 1 %."""
        raise_all(self.problems(table))
        examples: list[Example] = []
        dropped: list[str] = []
        truncated = 0
        for start in range(0, len(table), _CHUNK):
            rows = table.rows[start : start + _CHUNK]
            sources, cut = _tokens(reader, [self._source(row) for row in rows], max_length)
            targets, _ = _tokens(reader, [row.values[self.column_names["target"]] for row in rows], None)
            truncated += cut
            for index, row in enumerate(rows):
                source, target = sources[index], _ended(targets[index], reader.eos_token_id)
                if len(target) > max_length:
                    dropped.append(row.where)
                    continue
                length, place = len(source) + len(target), start + index
                example = Example({"input_ids": source}, length, place, row.where, target=target)
                examples.append(replace(example, references=self.references(row)))
        _check_dropped(dropped, len(table), max_length)
        check_ids(examples, vocabulary)
        return Examples(examples, self._counts(examples, len(table), truncated))

    def asked(
        self, table: Table, reader: PreTrainedTokenizerBase, max_length: int, vocabulary: int | None = None
    ) -> Examples:
        name = self.column_names["input"]
        raise_all(absent(table, {"input": name}))
        raise_all([*text_problems(table, name), *self.reference_problems(table)])
        sources, truncated = _tokens(reader, [self._source(row) for row in table.rows], max_length)
        examples = [
            Example({"input_ids": ids}, len(ids), index, row.where, references=self.known(row))
            for index, (ids, row) in enumerate(zip(sources, table.rows, strict=True))
        ]
        check_ids(examples, vocabulary)
        return Examples(examples, {"rows": len(table), "truncated": truncated})

    def items(self, example: Example) -> int:
        """Return the number of tokens of the target."""
        return len(example.target or ())

    def collate(self, examples: Sequence[Example], pad: int, virtual: VirtualTokens | None) -> dict[str, Tensor]:
        """Return the padded inputs and labels, and ``positions``: where in (batch x target tokens) there are some."""
        import torch

        batch = pad_examples([self.prompted(example) for example in examples], pad, virtual)
        targets = [example.target or [] for example in examples]
        longest = max(map(len, targets))
        labels = torch.tensor([target + [IGNORED] * (longest - len(target)) for target in targets], dtype=torch.long)
        return {**batch, "labels": labels, "positions": (labels.flatten() != IGNORED).nonzero().squeeze(1)}

    def token_losses(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the cross entropy of every token of the targets. Shapes: (target tokens)."""
        from torch.nn import functional

        targets = batch["labels"].flatten()[batch["positions"]]
        return functional.cross_entropy(self.logits(network, batch).float(), targets, reduction="none")

    def logits(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the logits of every token of the targets. Shapes: (target tokens, vocabulary)."""
        model: Any = getattr(network, "module", network)
        inputs = {key: value for key, value in batch.items() if key not in ("labels", "positions")}
        # The decoder reads the target one place later, behind the token that its network starts with.
        inputs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
        return labelled_logits(network, inputs, batch["positions"])

    def prompted(self, example: Example) -> Example:
        """Return the input alone, from which a text is generated."""
        return replace(example, length=len(example.ids["input_ids"]))

    def _source(self, row: Row) -> str:
        return f"{self.source_prefix}{row.values[self.column_names['input']]}"

    def _counts(self, examples: Sequence[Example], rows: int, truncated: int) -> dict[str, int]:
        return {
            "rows": rows,
            "truncated": truncated,
            "dropped": rows - len(examples),
            "tokens": sum(example.length for example in examples),
            "supervised": sum(map(self.items, examples)),
            "longest": max(len(example.ids["input_ids"]) for example in examples),
        }


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str], most: int | None) -> tuple[list[list[int]], int]:
    """Return the ids of the texts within the tokenizer's own frame, and how many texts were cut."""
    bounds: dict[str, Any] = {"truncation": True, "max_length": most} if most else {"truncation": False}
    encoding = tokenizer(texts, return_attention_mask=False, verbose=False, **bounds)
    ids: list[list[int]] = encoding["input_ids"]
    return ids, sum(bool(piece.overflowing) for piece in encoding.encodings or ()) if most else 0


def _ended(target: list[int], end: int | None) -> list[int]:
    return target if end is None or target[-1:] == [end] else [*target, end]


def _check_dropped(dropped: Sequence[str], rows: int, max_length: int) -> None:
    if len(dropped) == rows or len(dropped) > _MOST_DROPPED * rows:
        what = f"the target is longer than {max_length} tokens in {lines(dropped)} of {rows}"
        raise DataError(what, where=dropped[0], hint="Raise data.max_length, or leave these rows out.")
