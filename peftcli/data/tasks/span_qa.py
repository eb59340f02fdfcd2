"""Extractive question answering: the answer is a stretch of a text, or there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from peftcli.data.complaints import SHOWN_PROBLEMS, raise_all
from peftcli.data.examples import IGNORED, Example, Examples, check_ids, pad_examples
from peftcli.data.tasks.answer_spans import (
    Answer,
    Question,
    answer_problem,
    question_example,
    read_answers,
    span_text,
    tagged_span,
)
from peftcli.data.tasks.columns import absent, check_roles, require, text_problems
from peftcli.data.tasks.span_scores import best_spans, none_scores, scores_in_pieces, span_losses, span_scores
from peftcli.data.tasks.task import Outcome, Task
from peftcli.data.windows import windows_of
from peftcli.errors import ArtifactError, Problem

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from peftcli.data.examples import VirtualTokens
    from peftcli.data.shown import Shown
    from peftcli.data.tables import Row, Table
    from peftcli.metrics.scored import Scored
    from peftcli.recipe.recipe import DataSection

CANDIDATES = 5
"""How many answers are told of a question."""
_ROLES = ("question", "context", "answers")


@dataclass(frozen=True, kw_only=True)
class SpanQa(Task):
    """The columns ``question``, ``context`` and ``answers``, as SQuAD has them (Rajpurkar et al. 2016, 2018).

    ``answers`` holds the lists ``text`` and ``answer_start``, or is a list of objects with these two; an empty one is
    a question without an answer. A row is one example, of one window or several. In a window that does not hold the
    whole first answer, the first token ([CLS]) is the answer. The loss is the mean of the cross entropies of start and
    end, over the tokens where an answer may stand and [CLS], averaged over windows. The prediction is the span with
    the highest sum of start and end score in all windows; where training rows lack an answer, it is no answer if the
    lowest score of [CLS] in any window is higher by more than ``null_threshold`` (Devlin et al. 2018).

    Attributes:
        doc_stride: Tokens of the text that neighbouring windows share.
        max_answer_length: Most tokens of a predicted answer.
        null_threshold: By how much no answer must be better than the best answer.
        unanswerable: Whether some training question has no answer.
    """

    name: ClassVar[str] = "span-qa"
    model_class: ClassVar[str] = "AutoModelForQuestionAnswering"
    new_head: ClassVar[bool] = True
    select: ClassVar[str] = "f1"
    metric_names: ClassVar[tuple[str, ...]] = ("f1", "exact_match", "loss")
    metric_kind: ClassVar[str] = "answers"
    settings: ClassVar[tuple[str, ...]] = ("doc_stride", "max_answer_length", "null_threshold")
    inputs: ClassVar[tuple[str, ...]] = ("question", "context")
    answer: ClassVar[str] = "answers"

    doc_stride: int = 128
    max_answer_length: int = 30
    null_threshold: float = 0.0
    unanswerable: bool = False

    @classmethod
    def from_section(cls, section: DataSection, train: Table) -> Self:
        """Return the task of a recipe; whether there may be no answer, the training rows tell."""
        check_roles(section.columns, (*_ROLES, "id"))
        names = {**{role: role for role in _ROLES}, **section.columns}
        require(train, names)
        if "id" not in names and "id" in train.columns():
            names["id"] = "id"
        return cls(
            column_names=names,
            max_length=section.max_length,
            doc_stride=section.doc_stride,
            max_answer_length=section.max_answer_length,
            null_threshold=section.null_threshold,
            unanswerable=any(read_answers(row.values.get(names["answers"])) == [] for row in train.rows),
        )

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self:
        """Return the task that :meth:`manifest` described."""
        task = super().from_manifest(manifest)
        kinds = {"doc_stride": int, "max_answer_length": int, "null_threshold": float, "unanswerable": bool}
        found: dict[str, Any] = {key: manifest.get(key) for key in kinds}
        columns = all(role in task.column_names for role in _ROLES)
        if not columns or any(type(value) is not kinds[key] for key, value in found.items()):
            raise ArtifactError(f"the artifact's task has the settings {found!r}")
        return replace(task, **found)

    def manifest(self) -> dict[str, Any]:
        """Return what must be known to measure a delta later, for JSON."""
        own = {key: getattr(self, key) for key in (*self.settings, "unanswerable")}
        return {**super().manifest(), **own}

    def network_settings(self) -> dict[str, Any]:
        """Return the two scores of every token: of a start and of an end."""
        return {"num_labels": 2}

    def problems(self, table: Table) -> list[Problem]:
        """Return what is wrong with the texts, and each answer that does not stand where it says."""
        needed = {role: self.column_names[role] for role in _ROLES}
        if missing := absent(table, needed):
            return missing
        problems = [p for role in ("question", "context") for p in text_problems(table, needed[role])]
        found = [p for row in table.rows if (p := answer_problem(row, needed["context"], needed["answers"]))]
        if len(found) > SHOWN_PROBLEMS:
            what = f"{len(found)} rows with wrong answers in all, of which the first {SHOWN_PROBLEMS} are shown"
            found = [*found[:SHOWN_PROBLEMS], Problem(what=what, where=table.files[0].path)]
        return problems + found

    def answers_of(self, row: Row) -> list[Answer]:
        """Return the answers of a row that has no problems."""
        found = read_answers(row.values.get(self.column_names["answers"]))
        assert isinstance(found, list), row.where
        return found

    def encode(
        self, table: Table, reader: PreTrainedTokenizerBase, max_length: int, vocabulary: int | None = None
    ) -> Examples:
        """Return one example per question; what of its text does not fit into one window stands in further ones."""
        raise_all(self.problems(table))
        pairs = [tuple(row.values[self.column_names[role]] for role in self.inputs) for row in table.rows]
        found = windows_of(reader, pairs, max_length, self.doc_stride)
        examples: list[Example] = []
        cut = 0
        for index, (row, windows) in enumerate(zip(table.rows, found, strict=True)):
            context, answers = row.values[self.column_names["context"]], self.answers_of(row)
            examples.append(question_example(row, index, windows, context, answers))
            cut += windows.cut
        parts = [part for example in examples for part in example.parts]
        check_ids(parts, vocabulary)
        possible = [bool(example.references) for example in examples]
        placed = [any(tagged_span(part.ids["tags"]) for part in example.parts) for example in examples]
        counts = {
            "rows": len(table),
            "truncated": 0,
            "dropped": 0,
            "tokens": sum(part.length for part in parts),
            "supervised": len(examples),
            "longest": max(part.length for part in parts),
            "windows": len(parts),
            "questions_cut": cut,
            "impossible": possible.count(False),
            "in_no_window": sum(wanted and not held for wanted, held in zip(possible, placed, strict=True)),
        }
        return Examples(examples, counts)

    def items(self, example: Example) -> int:
        """Return the number of windows."""
        return len(example.parts)

    def told(self, examples: Examples) -> str:
        """Return how long the examples are, how many windows they make, and how many have no answer."""
        counts = examples.counts
        lost = f", {counts['in_no_window']:,} answers whole in none of them" if counts["in_no_window"] else ""
        without = f", {counts['impossible']:,} questions without an answer" if self.unanswerable else ""
        return f"{super().told(examples)}, in {counts['windows']:,} windows{lost}{without}"

    def shown(self, example: Example, reader: Any) -> Shown:  # noqa: ANN401
        """Return the first window that holds the answer, or the first, with the answer told apart."""
        part = next((part for part in example.parts if tagged_span(part.ids["tags"])), example.parts[0])
        first, last = tagged_span(part.ids["tags"]) or (0, -1)
        marks = [0 if first <= place <= last else IGNORED for place in range(part.length)]
        return super().shown(replace(part, ids={**part.ids, "tags": marks}), reader)

    def collate(self, examples: Sequence[Example], pad: int, virtual: VirtualTokens | None) -> dict[str, Tensor]:
        """Return the padded windows of all questions with their ``tags``, and how many ``windows`` each has."""
        import torch

        batch = pad_examples([part for example in examples for part in example.parts], pad, virtual)
        return {**batch, "windows": torch.tensor([len(example.parts) for example in examples])}

    def first_rows(self, batch: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
        """Return the windows of the first ``count`` questions."""
        windows = batch["windows"][:count]
        parts = int(windows.sum())
        return {**{name: tensor[:parts] for name, tensor in batch.items()}, "windows": windows}

    def loss(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the mean of the cross entropies of start and end, summed over the windows."""
        return span_losses(span_scores(network, _inputs(batch)), batch["tags"]).sum()

    def outcomes(self, network: nn.Module, batch: Mapping[str, Tensor]) -> list[Outcome]:
        """Return of every question the summed loss of its ``windows``, the best ``spans``, and the score of ``none``.

        A span is the number of its window, its first and its last token among those of the text, and its score.
        """
        import torch

        with torch.no_grad():
            tags = batch["tags"]
            scores = scores_in_pieces(network, _inputs(batch))
            losses, none = span_losses(scores, tags), none_scores(scores, tags)
            spans = best_spans(scores, tags, self.max_answer_length, CANDIDATES)
        found = []
        end = 0
        for windows in batch["windows"].tolist():
            start, end = end, end + windows
            best = [(number, *span) for number, some in enumerate(spans[start:end]) for span in some]
            loss, least = losses[start:end].sum().item(), none[start:end].min().item()
            found.append({"loss": loss, "windows": windows, "spans": best, "none": least})
        return found

    def completed(self, example: Example, outcome: Outcome) -> Outcome:
        """Return the outcome with texts in place of spans: the best ones with their scores, and the prediction."""
        assert isinstance(example, Question)
        candidates: dict[str, float] = {}
        for number, first, last, score in sorted(outcome["spans"], key=lambda span: -span[-1]):
            text = span_text(example, number, first, last)
            if text:
                candidates.setdefault(text, score)
        best = list(candidates.items())[:CANDIDATES]
        nothing = not best or (self.unanswerable and outcome["none"] - best[0][1] > self.null_threshold)
        return {
            **{key: outcome[key] for key in ("loss", "windows", "none")},
            "prediction": "" if nothing else best[0][0],
            "references": list(example.references),
            "candidates": [list(one) for one in best],
        }

    def scored(self, outcomes: Sequence[Outcome], names: Sequence[str]) -> dict[str, Scored]:
        """Return exact match and F1 over questions, and the loss per window."""
        from peftcli.metrics import answers, losses

        texts = self.answers(outcomes) if set(names) - {"loss"} else ([], [])
        found, windows = [o["loss"] for o in outcomes], [o["windows"] for o in outcomes]
        return {
            name: losses.scored(name, found, windows) if name == "loss" else answers.scored(name, *texts)
            for name in names
        }

    def answers(self, outcomes: Sequence[Outcome]) -> tuple[list[Any], list[Any]]:
        """Return the predicted answers, and the right ones of each question."""
        return [outcome["prediction"] for outcome in outcomes], [outcome["references"] for outcome in outcomes]

    def details(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Return the scores of questions with and without an answer, where there are both."""
        groups = {
            "with an answer": [o for o in outcomes if o["references"]],
            "without an answer": [o for o in outcomes if not o["references"]],
        }
        if not all(groups.values()):
            return {}
        names = ("exact_match", "f1")
        table = [
            {"label": label, "n": len(group), **{name: one.value for name, one in self.scored(group, names).items()}}
            for label, group in groups.items()
        ]
        return {"questions": table}

    def some_answer(self, row: Row) -> dict[str, list[Any]]:
        """Return what stands where a question has no answer."""
        del row
        return {"text": [], "answer_start": []}

    def signature(self, metric: str) -> str:
        """Return how exactly a metric is computed."""
        if metric == "loss":
            return "mean of the cross entropies of start and end in nats, the mean over windows"
        return f"{super().signature(metric)}|answers of at most {self.max_answer_length} tokens"

    def describe(self, row: Row, outcome: Outcome) -> dict[str, Any]:
        """Return the question, the predicted answer, the right ones, and what else was likely."""
        names = [role for role in ("id", "question") if role in self.column_names]
        told = {role: row.values.get(self.column_names[role]) for role in names}
        found = {"prediction": outcome["prediction"], "answers": outcome["references"]}
        found["candidates"] = outcome["candidates"]
        none = {"no_answer": outcome["none"]} if self.unanswerable else {}
        return {"where": row.where, **told, **found, **none, "loss": outcome["loss"] / outcome["windows"]}


def _inputs(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what a batch holds of each window."""
    return {key: tensor for key, tensor in batch.items() if key != "windows"}
