"""Classification by a language model as it is: the label whose word it finds the likeliest continuation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

from peftcli.data.complaints import raise_all
from peftcli.data.examples import Example, Examples, check_ids
from peftcli.data.tables import Row
from peftcli.data.tasks.likelihood import pair_batch, pair_likelihoods
from peftcli.data.tasks.prompts import Demonstration, Nearest, Template, leading_ids
from peftcli.data.tasks.reframed import Reframed, scores
from peftcli.errors import ArtifactError, DataError, RecipeError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from peftcli.data.examples import VirtualTokens
    from peftcli.data.tables import Table
    from peftcli.data.tasks.task import Outcome, Task

Score = Literal["sum", "length"]


@dataclass(frozen=True, kw_only=True)
class LabelLikelihood(Reframed):
    """log p(word of the label | demonstrations, row), for every label of the task ``of``.

    Attributes:
        template: How a row is written.
        words: The word of every label, in the labels' order.
        score: Whether a likelihood is summed over the tokens of a word, or divided by how many they are.
        demonstrations: What is shown before every row, but not before the row that it is; of it, where ``nearest`` is
            set, so many that are nearest to the row, the nearest last.
        separator: What stands between demonstrations, and before the row.
        content_free: log p(label) of an input that says nothing, which is taken off (Zhao et al. 2021); empty: nothing.
        trials: How templates did on training rows, where there was a choice.
    """

    name: ClassVar[str] = "label-likelihood"
    model_class: ClassVar[str] = "AutoModelForCausalLM"

    template: str
    words: tuple[str, ...]
    score: Score = "sum"
    demonstrations: tuple[Demonstration, ...] = ()
    nearest: int | None = None
    separator: str = "\n\n"
    content_free: tuple[float, ...] = ()
    trials: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def reopened(cls, of: Task, manifest: Mapping[str, Any]) -> Self:
        """Return what :meth:`manifest` described."""
        try:
            shown = tuple(Demonstration(dict(d["values"]), str(d["label"])) for d in manifest["demonstrations"])
            task = cls.around(
                of,
                template=str(manifest["template"]),
                words=tuple(map(str, manifest["words"])),
                score=manifest["score"],
                demonstrations=shown,
                nearest=manifest["nearest"],
                separator=str(manifest["separator"]),
                content_free=tuple(map(float, manifest["content_free"])),
                trials=tuple(dict(trial) for trial in manifest["trials"]),
            )
            Template(task.template).check(task.roles)
        except (KeyError, TypeError, ValueError, RecipeError) as error:
            raise ArtifactError(f"the artifact's prompt is damaged ({error})") from None
        sizes = {len(task.words), *([len(task.content_free)] if task.content_free else [])}
        known = task.score in get_args(Score) and isinstance(task.nearest, int | None)
        if sizes != {len(task.labels)} or not known:
            raise ArtifactError("the artifact's prompt does not fit its labels")
        return task

    def manifest(self) -> dict[str, Any]:
        """Return what must be known to measure with it later, for JSON."""
        return {
            **super().manifest(),
            "template": self.template,
            "words": list(self.words),
            "score": self.score,
            "demonstrations": [{"values": dict(d.values), "label": d.label} for d in self.demonstrations],
            "nearest": self.nearest,
            "separator": self.separator,
            "content_free": list(self.content_free),
            "trials": [dict(trial) for trial in self.trials],
        }

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the task."""
        found: tuple[str, ...] = self.of.manifest()["labels"]
        return tuple(found)

    @property
    def roles(self) -> list[str]:
        """What the task calls the columns of text that its files have."""
        return [role for role in self.of.inputs if role in self.column_names]

    def demonstration(self, row: Row) -> Demonstration:
        """Return a training row as it is shown."""
        return Demonstration(self._values(row), self.of.stratum(row))

    def encode(
        self, table: Table, reader: PreTrainedTokenizerBase, max_length: int, vocabulary: int | None = None
    ) -> Examples:
        """Return the prompts; what does not fit loses demonstrations from the front, then the start of the row."""
        raise_all(self.problems(table))
        continuations, start = self._continuations(reader), leading_ids(reader)
        longest = max(map(len, continuations))
        room = max_length - longest
        if room <= len(start):
            raise DataError(f"data.max_length is {max_length}, and the words of the labels have {longest} tokens")
        numbers = {label: number for number, label in enumerate(self.labels)}
        flat = {"continuations": [i for ids in continuations for i in ids], "lengths": [len(c) for c in continuations]}
        examples, left_out, truncated = [], 0, 0
        for index, row in enumerate(table.rows):
            ids, missing, cut = self._prompt(row, reader, start, room)
            left_out, truncated = left_out + missing, truncated + cut
            label = numbers[self.of.stratum(row)]
            examples.append(Example({"input_ids": ids, **flat}, len(ids) + longest, index, row.where, label=label))
        check_ids(examples, vocabulary)
        counts = {"rows": len(table), "truncated": truncated, "dropped": 0, "demonstrations_left_out": left_out}
        lengths = [example.length for example in examples]
        return Examples(
            examples, {**counts, "tokens": sum(lengths), "supervised": len(examples), "longest": max(lengths)}
        )

    def collate(self, examples: Sequence[Example], pad: int, virtual: VirtualTokens | None) -> dict[str, Tensor]:
        """Return every prompt once with each word, and ``labels`` of shape (batch)."""
        import torch

        assert virtual is None, "nothing is attached"
        pairs = [(e.ids["input_ids"], word) for e in examples for word in _parted(e)]
        labels = torch.tensor([example.label for example in examples], dtype=torch.long)
        return {**pair_batch(pairs, pad), "labels": labels}

    def answering(self, network: nn.Module) -> Any:  # noqa: ANN401
        """Return what gives the scores of the labels. Shapes: (batch, labels)."""

        def answer(**inputs: Tensor) -> Any:  # noqa: ANN401
            found = pair_likelihoods(network, inputs)
            found = (found / inputs["lengths"] if self.score == "length" else found).view(-1, len(self.words))
            if self.content_free:
                found = found.log_softmax(-1) - found.new_tensor(self.content_free)
            return scores(found)

        return answer

    def details(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Return what the task shows, and the prompt."""
        shown = {key: value for key, value in self.manifest().items() if key in ("template", "words", "content_free")}
        count = len(self.demonstrations) if self.nearest is None else self.nearest
        tried = {"templates": [dict(trial) for trial in self.trials]} if self.trials else {}
        return {**self.of.details(outcomes), "prompt": {**shown, "demonstrations": count}, **tried}

    @cached_property
    def _index(self) -> Nearest:
        return Nearest([" ".join(d.values.values()) for d in self.demonstrations])

    def _values(self, row: Row) -> dict[str, str]:
        return {role: row.values[self.column_names[role]] for role in self.roles}

    def _shown(self, row: Row) -> list[Demonstration]:
        """Return what is shown before ``row``: never the row itself, whose label it would tell."""
        key, shown = self.of.key(row), self.demonstrations
        if self.nearest is not None:
            shown = tuple(shown[place] for place in self._index.order(" ".join(self._values(row).values())))
        others = (d for d in shown if self._key(d) != key)
        return list(others) if self.nearest is None else list(islice(others, self.nearest))[::-1]

    def _key(self, demonstration: Demonstration) -> str:
        return self.of.key(Row({self.column_names[role]: text for role, text in demonstration.values.items()}, ""))

    def _prompt(
        self, row: Row, reader: PreTrainedTokenizerBase, start: list[int], room: int
    ) -> tuple[list[int], int, bool]:
        """Return the ids of a prompt, how many demonstrations were left out, and whether the row was cut."""
        template = Template(self.template)
        words = dict(zip(self.labels, self.words, strict=True))
        shots = [template.filled(d.values, words[d.label]) for d in self._shown(row)]
        own = template.prompt(self._values(row))
        for left_out in range(len(shots) + 1):
            ids = start + _ids(reader, self.separator.join([*shots[left_out:], own]))
            if len(ids) <= room:
                return ids, left_out, False
        return start + ids[len(ids) - room + len(start) :], len(shots), True

    def _continuations(self, reader: PreTrainedTokenizerBase) -> list[list[int]]:
        """Return the ids of the words, as they are behind the template's own ending."""
        template = Template(self.template)
        before = _ids(reader, template.ending)
        found: list[list[int]] = []
        for word in self.words:
            text = template.continuation(word)
            whole = _ids(reader, template.ending + text)
            ids = whole[len(before) :] if whole[: len(before)] == before else _ids(reader, text)
            if not ids:
                raise DataError(f"the tokenizer makes no token of the label word {word!r}", hint="Write method.words.")
            if ids in found:
                other = self.words[found.index(ids)]
                raise DataError(
                    f"the label words {other!r} and {word!r} are the same tokens", hint="Write method.words."
                )
            found.append(ids)
        return found


def _parted(example: Example) -> list[list[int]]:
    flat, words = iter(example.ids["continuations"]), example.ids["lengths"]
    return [[next(flat) for _ in range(length)] for length in words]


def _ids(reader: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = reader(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids
