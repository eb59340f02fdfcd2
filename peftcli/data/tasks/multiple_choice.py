"""Multiple choice by likelihood: of several continuations, the one that a language model finds likeliest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

from peftcli.data.complaints import SHOWN_PROBLEMS, lines, raise_all
from peftcli.data.examples import IGNORED, Example, Examples, check_ids, pad_examples
from peftcli.data.formats.format import Rendering, Segment
from peftcli.data.formats.prompt_completion import PromptCompletion
from peftcli.data.segments import Frame, joined
from peftcli.data.tasks.choice_rows import choice_columns, choice_problem, letter, read_choice
from peftcli.data.tasks.columns import absent, check_roles, require, text_problems
from peftcli.data.tasks.likelihood import pair_likelihoods
from peftcli.data.tasks.task import Outcome, Task, normalised
from peftcli.errors import ArtifactError, DataError, Problem

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from peftcli.data.examples import VirtualTokens
    from peftcli.data.shown import Shown
    from peftcli.data.tables import Row, Table
    from peftcli.metrics.scored import Scored
    from peftcli.recipe.recipe import DataSection

Normalise = Literal["sum", "token", "character"]
_CHUNK = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice(Example):
    """A prompt with one of its choices, whose tokens are labelled and whose text has so many ``characters``."""

    characters: int = 1


@dataclass(frozen=True, kw_only=True)
class MultipleChoice(Task):
    """The columns ``prompt``, ``choices`` (or ``choice1``, ``choice2``, ...) and ``answer``, which names the right one.

    A row is one example. A choice is scored by log p(choice | prompt), divided by its tokens or characters as
    ``normalise`` says; a space parts it from the prompt unless one of them brings white space. What is learned is the
    right choice, as in language modelling: its tokens alone have a loss, which is averaged over tokens. Too long rows
    lose the start of the prompt, never of a choice.

    Attributes:
        normalise: What the log-likelihood of a choice is divided by; ``sum``: nothing.
    """

    name: ClassVar[str] = "multiple-choice"
    model_class: ClassVar[str] = "AutoModelForCausalLM"
    new_head: ClassVar[bool] = False
    select: ClassVar[str] = "accuracy"
    metric_names: ClassVar[tuple[str, ...]] = ("accuracy", "loss")
    metric_kind: ClassVar[str] = "classes"
    settings: ClassVar[tuple[str, ...]] = ("normalise",)
    inputs: ClassVar[tuple[str, ...]] = ("prompt",)
    answer: ClassVar[str] = "answer"

    normalise: Normalise = "token"

    @classmethod
    def from_section(cls, section: DataSection, train: Table) -> Self:
        """Return the task of a recipe."""
        names = choice_columns(section.columns, train.columns())
        check_roles(section.columns, tuple(names))
        require(train, names)
        return cls(column_names=names, max_length=section.max_length, normalise=section.normalise)

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self:
        """Return the task that :meth:`manifest` described."""
        task = super().from_manifest(manifest)
        normalise: Any = manifest.get("normalise")
        if normalise not in get_args(Normalise) or not {"prompt", "answer"} <= set(task.column_names):
            raise ArtifactError(f"the artifact's task has the columns {dict(task.column_names)!r} and {normalise!r}")
        return replace(task, normalise=normalise)

    def manifest(self) -> dict[str, Any]:
        """Return what must be known to measure a delta later, for JSON."""
        return {**super().manifest(), "normalise": self.normalise}

    def network_settings(self) -> dict[str, Any]:
        """Return nothing: the pretrained head stays as it is."""
        return {}

    def problems(self, table: Table) -> list[Problem]:
        """Return what is wrong with the prompts, the choices and the answers."""
        if missing := absent(table, self.column_names):
            return missing
        problems = text_problems(table, self.column_names["prompt"])
        found = [p for row in table.rows if (p := choice_problem(row, self.column_names))]
        if len(found) > SHOWN_PROBLEMS:
            what = f"{len(found)} rows with wrong choices in all, of which the first {SHOWN_PROBLEMS} are shown"
            found = [*found[:SHOWN_PROBLEMS], Problem(what=what, where=table.files[0].path)]
        return problems + found

    def key(self, row: Row) -> str:
        """Return the normalised prompt and choices."""
        found = read_choice(row.values, self.column_names)
        choices = [] if isinstance(found, str) else found.texts
        return "\0".join([super().key(row), *map(normalised, choices)])

    def labels_in(self, row: Row) -> Sequence[str]:
        """Return the letter of the right choice."""
        found = read_choice(row.values, self.column_names)
        return [] if isinstance(found, str) else [letter(found.answer)]

    def encode(
        self, table: Table, reader: PreTrainedTokenizerBase, max_length: int, vocabulary: int | None = None
    ) -> Examples:
        """Return one example per row, with a part for each choice; choices that do not fit are refused."""
        raise_all(self.problems(table))
        frame = Frame.of(reader, max_length, PromptCompletion(columns={}))
        examples: list[Example] = []
        refused: list[str] = []
        truncated = 0
        for start in range(0, len(table), _CHUNK):
            for index, row in enumerate(table.rows[start : start + _CHUNK], start=start):
                parts, cut = self._parts(row, index, reader, frame)
                if parts is None:
                    refused.append(row.where)
                    continue
                length = sum(part.length for part in parts)
                examples.append(Example({}, length, index, row.where, label=self._answer(row), parts=parts))
                truncated += cut
        if refused:
            what = f"a choice alone is longer than {max_length} tokens, or has none, in {lines(refused)}"
            raise DataError(what, where=refused[0], hint="Raise data.max_length, or leave these rows out.")
        choices = [part for example in examples for part in example.parts]
        check_ids(choices, vocabulary)
        counts = {
            "rows": len(table),
            "truncated": truncated,
            "dropped": 0,
            "tokens": sum(part.length for part in choices),
            "supervised": sum(map(self.items, examples)),
            "longest": max(part.length for part in choices),
            "choices": len(choices),
        }
        return Examples(examples, counts)

    def items(self, example: Example) -> int:
        """Return the number of tokens of the right choice."""
        return _learned(_right(example))

    def shown(self, example: Example, reader: Any) -> Shown:  # noqa: ANN401
        """Return the prompt with the right choice."""
        return super().shown(replace(_right(example), label=None), reader)

    def collate(self, examples: Sequence[Example], pad: int, virtual: VirtualTokens | None) -> dict[str, Tensor]:
        """Return all choices of all rows, padded, with what tells them apart.

        Shapes: ``input_ids`` and ``attention_mask`` (choices, tokens); ``lengths`` and ``characters`` of the choices
        (choices); ``labels``, the number of the right one, and ``choices``, how many there are, (rows).
        """
        import torch

        parts = [part for example in examples for part in example.parts]
        batch = pad_examples(parts, pad, virtual)
        return {
            **{key: tensor for key, tensor in batch.items() if key != "labels"},
            "lengths": torch.tensor([_learned(part) for part in parts]),
            "characters": torch.tensor([part.characters for part in parts if isinstance(part, Choice)]),
            "choices": torch.tensor([len(example.parts) for example in examples]),
            "labels": torch.tensor([example.label for example in examples]),
        }

    def first_rows(self, batch: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
        """Return the choices of the first ``count`` rows."""
        rows = {name: batch[name][:count] for name in ("choices", "labels")}
        parts = int(rows["choices"].sum())
        return {**{name: tensor[:parts] for name, tensor in batch.items()}, **rows}

    def loss(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the cross entropy summed over the tokens of the right choices; the others are not computed."""
        right = batch["choices"].cumsum(0) - batch["choices"] + batch["labels"]
        kept = {key: batch[key][right] for key in ("input_ids", "attention_mask", "lengths")}
        return -pair_likelihoods(network, kept).sum()

    def outcomes(self, network: nn.Module, batch: Mapping[str, Tensor]) -> list[Outcome]:
        """Return of every row the loss of the right choice, its tokens and number, all scores and the best one."""
        import torch

        with torch.no_grad():
            likelihoods = pair_likelihoods(network, batch).double()
            sizes = {"token": batch["lengths"], "character": batch["characters"]}
            scores = likelihoods / sizes[self.normalise] if self.normalise in sizes else likelihoods
        counts = batch["choices"].tolist()
        rows = zip(*(torch.split(tensor, counts) for tensor in (likelihoods, scores, batch["lengths"])), strict=True)
        return [
            {
                "loss": -likelihood[label].item(),
                "tokens": int(lengths[label]),
                "label": label,
                "prediction": int(score.argmax()),
                "scores": score.tolist(),
            }
            for (likelihood, score, lengths), label in zip(rows, batch["labels"].tolist(), strict=True)
        ]

    def scored(self, outcomes: Sequence[Outcome], names: Sequence[str]) -> dict[str, Scored]:
        """Return the accuracy over rows, and the loss per token of the right choices."""
        import numpy as np

        from peftcli.metrics import classes, losses

        labels, predictions = (np.array([o[key] for o in outcomes], dtype=int) for key in ("label", "prediction"))
        found, tokens = [o["loss"] for o in outcomes], [o["tokens"] for o in outcomes]
        most = max((len(o["scores"]) for o in outcomes), default=0)
        return {
            name: losses.scored(name, found, tokens)
            if name == "loss"
            else classes.scored(name, labels, predictions, most)
            for name in names
        }

    def details(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Return precision, recall and F1 by the place of a choice: a model may prefer the first or the last one."""
        import numpy as np

        from peftcli.metrics.classes import class_table

        labels, predictions = (np.array([o[key] for o in outcomes], dtype=int) for key in ("label", "prediction"))
        most = max((len(o["scores"]) for o in outcomes), default=0)
        return {"classes": class_table(labels, predictions, [letter(place) for place in range(most)])}

    def some_answer(self, row: Row) -> int:
        """Return the first choice."""
        del row
        return 0

    def signature(self, metric: str) -> str:
        """Return how exactly a metric is computed."""
        if metric == "loss":
            return "cross entropy in nats of the right choice, the mean over its tokens"
        how = "summed" if self.normalise == "sum" else f"per {self.normalise}"
        return f"{super().signature(metric)}|log-likelihood of the choice, {how}"

    def describe(self, row: Row, outcome: Outcome) -> dict[str, Any]:
        """Return the prompt, the choices with their scores, the right one and the predicted one."""
        found = read_choice(row.values, self.column_names)
        assert not isinstance(found, str), row.where
        told = {key: outcome[key] for key in ("prediction", "scores")}
        told |= {"answer": outcome["label"], "loss": outcome["loss"] / outcome["tokens"]}
        asked = {"prompt": row.values[self.column_names["prompt"]], "choices": list(found.texts)}
        return {"where": row.where, **asked, **told}

    def _answer(self, row: Row) -> int:
        found = read_choice(row.values, self.column_names)
        assert not isinstance(found, str), row.where
        return found.answer

    def _parts(
        self, row: Row, index: int, reader: PreTrainedTokenizerBase, frame: Frame
    ) -> tuple[tuple[Choice, ...] | None, bool]:
        """Return the choices of a row, None where one does not fit, and whether the prompt was cut."""
        found = read_choice(row.values, self.column_names)
        assert not isinstance(found, str), row.where
        renderings = [_rendering(row.values[self.column_names["prompt"]], text) for text in found.texts]
        tokens = joined(reader, renderings)
        fitted = [frame.fit(rendering, ids) for rendering, ids in zip(renderings, tokens, strict=True)]
        parts = [
            Choice({"input_ids": f.ids, "labels": f.labels}, len(f.ids), index, row.where, characters=len(text))
            for f, text in zip(fitted, found.texts, strict=True)
            if f is not None
        ]
        return (tuple(parts) if len(parts) == len(fitted) else None), any(f.cut for f in fitted if f)


def _rendering(prompt: str, choice: str) -> Rendering:
    """Return a prompt and a choice as text; the white space between them belongs to the choice."""
    start = prompt.rstrip()
    between = prompt[len(start) :] or ("" if choice[:1].isspace() else " ")
    return Rendering((Segment(start, loses="start"), Segment(between + choice, answer=True)), closed=True)


def _right(example: Example) -> Example:
    assert isinstance(example.label, int)
    return example.parts[example.label]


def _learned(part: Example) -> int:
    labels = part.ids["labels"]
    return len(labels) - labels.count(IGNORED)
