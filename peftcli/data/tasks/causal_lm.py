"""Language modelling of completions: the loss is on what follows the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from peftcli.data.complaints import lines, raise_all
from peftcli.data.examples import IGNORED, Example, Examples, check_ids, pad_examples
from peftcli.data.tasks.columns import absent, check_roles, require, text_problems
from peftcli.data.tasks.generating import Generating
from peftcli.data.tasks.labelled_logits import labelled_logits
from peftcli.data.tasks.task import normalised
from peftcli.errors import DataError, Problem

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from peftcli.data.examples import VirtualTokens
    from peftcli.data.tables import Row, Table
    from peftcli.recipe.recipe import DataSection

_CHUNK = 4096
_MOST_DROPPED = 0.01
SEPARATOR = "\n"
"""What stands between a prompt and its completion, unless the prompt ends in white space."""


@dataclass(frozen=True, kw_only=True)
class CausalLm(Generating):
    """A completion for each prompt.

    The columns are ``completion`` and, optional, ``prompt`` (default: the file's own of these names, or ``target``
    and ``input`` where there is no ``completion``). Prompt and completion become tokens apart, so the prompt's are
    what generation is given, the completion's are what it has to produce, and the labels are exactly the latter and
    the end of the text. A row that is too long loses the start of its prompt, never a part of its completion.
    """

    name: ClassVar[str] = "causal-lm"
    model_class: ClassVar[str] = "AutoModelForCausalLM"
    inputs: ClassVar[tuple[str, ...]] = ("prompt",)
    answer: ClassVar[str] = "completion"

    @classmethod
    def from_section(cls, section: DataSection, train: Table) -> Self:
        """Return the task of a recipe."""
        check_roles(section.columns, ("prompt", "completion", "references"))
        present = train.columns()
        pair = ("input", "target") if "completion" not in present and "target" in present else ("prompt", "completion")
        prompt = {"prompt": pair[0]} if pair[0] in present else {}
        names = {**prompt, "completion": pair[1], **section.columns}
        task = cls(column_names=names, max_length=section.max_length)
        require(train, task.text_columns)
        return task

    def problems(self, table: Table) -> list[Problem]:
        """Return what is wrong with the columns and texts of ``table``; a prompt may be blank."""
        if missing := absent(table, self.text_columns):
            return missing
        prompt = self.column_names.get("prompt")
        prompts = text_problems(table, prompt, blank=True) if prompt else []
        completions = text_problems(table, self.column_names["completion"])
        return [*prompts, *completions, *self.reference_problems(table)]

    def key(self, row: Row) -> str:
        """Return the normalised prompt, or the completion of a row without one."""
        return super().key(row) or normalised(row.values.get(self.column_names["completion"]))

    def prompt(self, row: Row) -> str:
        """Return the text that the completion of ``row`` follows, with the separator."""
        text: str = row.values[self.column_names["prompt"]] if "prompt" in self.column_names else ""
        return f"{text}{SEPARATOR}" if text and not text[-1].isspace() else text

    def encode(
        self, table: Table, reader: PreTrainedTokenizerBase, max_length: int, vocabulary: int | None = None
    ) -> Examples:
        """Return the examples; rows whose completion does not fit are left out, and refused if more than 1 %."""
        raise_all(self.problems(table))
        frame = _Frame.of(reader, max_length)
        examples: list[Example] = []
        dropped: list[str] = []
        truncated = 0
        for start in range(0, len(table), _CHUNK):
            rows = table.rows[start : start + _CHUNK]
            prompts = _tokens(reader, [self.prompt(row) for row in rows])
            completions = _tokens(reader, [row.values[self.column_names["completion"]] for row in rows])
            for index, row in enumerate(rows):
                example, cut = frame.example(prompts[index], completions[index], start + index, row.where)
                truncated += cut
                if example is None:
                    dropped.append(row.where)
                else:
                    examples.append(replace(example, references=self.references(row)))
        _check_dropped(dropped, len(table), max_length)
        check_ids(examples, vocabulary)
        return Examples(examples, self._counts(examples, len(table), truncated))

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


@dataclass(frozen=True, slots=True)
class _Frame:
    """What a tokenizer puts around a text, and the room inside."""

    start: list[int]
    lone_start: list[int]
    end: list[int]
    max_length: int

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Self:
        """Return the frame: the start that the tokenizer itself adds, and one for rows without a prompt."""
        plain: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
        full: list[int] = tokenizer("a")["input_ids"]
        at = next((i for i in range(len(full)) if full[i : i + len(plain)] == plain), 0)
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        # Without anything before it the first token could not be predicted: a text starts where another ended.
        lone = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        return cls(start=full[:at], lone_start=full[:at] or lone or end, end=end, max_length=max_length)

    def example(self, prompt: list[int], completion: list[int], row: int, where: str) -> tuple[Example | None, bool]:
        """Return the example, or None where the completion does not fit; and whether the prompt was cut."""
        start = self.start if prompt else self.lone_start
        answer = completion + self.end
        room = self.max_length - len(start) - len(answer)
        if room < 0 or not completion or (prompt and not start and room == 0):
            return None, False
        kept = prompt[max(0, len(prompt) - room) :]
        before = start + kept
        ids = before + answer
        labels = [IGNORED] * len(before) + answer
        labels[0] = IGNORED
        example = Example({"input_ids": ids, "labels": labels}, len(ids), row, where)
        return (example if len(ids) > 1 else None), len(kept) < len(prompt)


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    # verbose=False: a text longer than the model is cut later, and needs no warning.
    encoding = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, truncation=False, verbose=False)
    ids: list[list[int]] = encoding["input_ids"]
    return ids


def _check_dropped(dropped: Sequence[str], rows: int, max_length: int) -> None:
    if len(dropped) == rows or len(dropped) > _MOST_DROPPED * rows:
        what = f"the completion alone is longer than {max_length} tokens in {lines(dropped)} of {rows}"
        raise DataError(what, where=dropped[0], hint="Raise data.max_length, or leave these rows out.")
