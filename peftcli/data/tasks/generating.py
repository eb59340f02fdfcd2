"""What the tasks have in common whose answer is a text: a loss per token, and metrics of what is generated."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from peftcli.data.complaints import lines
from peftcli.data.examples import IGNORED
from peftcli.data.metrics import is_module
from peftcli.data.tasks.columns import kind
from peftcli.data.tasks.task import Outcome, Task
from peftcli.errors import Problem
from peftcli.metrics.registry import NAMES

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from peftcli.data.examples import Example, Examples
    from peftcli.data.tables import Row, Table
    from peftcli.metrics.scored import Scored


@dataclass(frozen=True, kw_only=True)
class Generating(Task):
    """A text for each row, learned token by token and measured by its loss or by what the network writes itself.

    An outcome of a row for which a text was generated has it as ``text``, beside the row's ``references``.
    """

    new_head: ClassVar[bool] = False
    select: ClassVar[str] = "loss"
    metric_names: ClassVar[tuple[str, ...]] = ("loss", "perplexity")
    text_metrics: ClassVar[tuple[str, ...]] = NAMES["texts"]
    answer: ClassVar[str]
    """What the task calls the column with the text that is to be written."""

    @abstractmethod
    def token_losses(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the cross entropy of every labelled token, where ``positions`` says. Shapes: (labelled tokens)."""

    def network_settings(self) -> dict[str, Any]:
        """Return nothing: the pretrained head stays as it is."""
        return {}

    def loss(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the cross entropy summed over the labelled tokens."""
        return self.token_losses(network, batch).sum()

    def outcomes(self, network: nn.Module, batch: Mapping[str, Tensor]) -> list[Outcome]:
        """Return the summed loss and the number of labelled tokens of every row."""
        import torch

        with torch.no_grad():
            losses = self.token_losses(network, batch).double()
            rows, width = batch["labels"].shape
            row = batch["positions"] // width
            sums = losses.new_zeros(rows).index_add(0, row, losses)
            tokens = torch.bincount(row, minlength=rows)
        return [{"loss": loss, "tokens": n} for loss, n in zip(sums.tolist(), tokens.tolist(), strict=True)]

    def scored(self, outcomes: Sequence[Outcome], names: Sequence[str]) -> dict[str, Scored]:
        """Return the loss per token, its exponential, the perplexity, and metrics of the generated texts."""
        from peftcli.metrics import losses, texts

        found, tokens = [o["loss"] for o in outcomes], [o["tokens"] for o in outcomes]
        of_texts = set(names) & set(self.text_metrics)
        answers = self.answers(outcomes) if of_texts else ([], [])
        return {
            name: texts.scored(name, *answers) if name in of_texts else losses.scored(name, found, tokens)
            for name in names
        }

    def answers(self, outcomes: Sequence[Outcome]) -> tuple[list[Any], list[Any]]:
        """Return the generated texts, and the references of each."""
        return [outcome["text"] for outcome in outcomes], [outcome["references"] for outcome in outcomes]

    @property
    def text_columns(self) -> dict[str, str]:
        """What the task calls those columns that every row has -> what the files call them."""
        return {role: name for role, name in self.column_names.items() if role != "references"}

    def asks_for_texts(self, names: Sequence[str] | None) -> bool:
        """Return whether metrics need the texts that the network generates, as those of the user's own do."""
        return any(name in self.text_metrics or is_module(name) for name in names or ())

    @abstractmethod
    def asked(
        self, table: Table, reader: PreTrainedTokenizerBase, max_length: int, vocabulary: int | None = None
    ) -> Examples:
        """Return rows, which need no answer, as examples of which nothing but the prompt is there (see encode)."""

    def question(self, row: Row) -> dict[str, Any]:
        """Return what is asked in ``row``."""
        return {role: row.values.get(name) for role, name in self.text_columns.items() if role != self.answer}

    def known(self, row: Row) -> tuple[str, ...]:
        """Return the texts that ``row`` allows as an answer, if it says any."""
        return self.references(row)

    def describe(self, row: Row, outcome: Outcome) -> dict[str, Any]:
        """Return the row's texts, its loss per token, its tokens, and what was written for it."""
        texts = {role: row.values.get(name) for role, name in self.text_columns.items()}
        told = {"prediction": outcome["text"], "references": outcome["references"]} if "text" in outcome else {}
        tokens = outcome["tokens"]
        return {"where": row.where, **texts, **told, "loss": outcome["loss"] / tokens, "tokens": tokens}

    def references(self, row: Row) -> tuple[str, ...]:
        """Return the texts that ``row`` allows as an answer: its ``references``, or else its only answer."""
        given = row.values.get(self.column_names.get("references", "references"))
        given = row.values.get(self.column_names.get(self.answer, "")) if given is None else given
        return (given,) if isinstance(given, str) else tuple(given or ())

    def reference_problems(self, table: Table) -> list[Problem]:
        """Return what keeps the references, where there are some, from being texts."""
        name = self.column_names.get("references", "references")
        bad = [row for row in table.rows if not _texts(row.values.get(name))]
        if not bad:
            return []
        what = f"column {name!r} is {_shown(bad[0].values[name])}, not texts, in {lines([row.where for row in bad])}"
        return [Problem(what=what, where=bad[0].where, hint="Write a list of at least one text, or leave it out.")]

    def prompted(self, example: Example) -> Example:
        """Return what a text is generated from: all that stands before the last tokens with a label."""
        labels = example.ids["labels"]
        end = len(labels)
        while end and labels[end - 1] == IGNORED:
            end -= 1
        while end and labels[end - 1] != IGNORED:
            end -= 1
        return replace(example, ids={key: ids[:end] for key, ids in example.ids.items()}, length=end)


def _texts(value: object) -> bool:
    if value is None or isinstance(value, str):
        return value != ""
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) and text for text in value)


def _shown(value: object) -> str:
    if value in ("", []):
        return "empty"
    other = next((one for one in value if not isinstance(one, str)), "") if isinstance(value, list) else value
    return f"a list with {kind(other)}" if isinstance(value, list) and not isinstance(other, str) else kind(other)
