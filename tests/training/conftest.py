"""A training run in miniature: a two-layer BERT, a dozen rows, real methods, real batches."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from tiny import VOCABULARY, tiny_base

from peftcli.data.batches import Batches, Share
from peftcli.data.examples import Example, Examples
from peftcli.data.tasks.classification import Classification
from peftcli.delta.delta import attach
from peftcli.delta.registry import find
from peftcli.recipe.recipe import TrainingSection
from peftcli.training.evaluation import EvaluationSettings, evaluate
from peftcli.training.loop import Job
from peftcli.training.randomness import seed_all

Lora = find("lora")
LABELS = ("a", "b")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class Heard:
    """A watcher that remembers."""

    notes: list[str] = field(default_factory=list)
    steps: list[tuple[int, float, float]] = field(default_factory=list)
    evaluations: list[tuple[int, dict[str, float], bool]] = field(default_factory=list)
    total: int | None = None
    finished: int = 0
    at_step: Callable[[int], None] = lambda step: None

    def note(self, text):
        self.notes.append(text)

    def start(self, total_steps):
        self.total = total_steps

    def step(self, step, loss, learning_rate, examples_per_second):
        self.steps.append((step, loss, learning_rate))
        self.at_step(step)

    def evaluation(self, step, metrics, best):
        self.evaluations.append((step, metrics, best))

    def finish(self):
        self.finished += 1


def make_examples(rows: int, seed: int) -> Examples:
    """Rows whose label is whether their first token is in the upper half of the vocabulary."""
    draw = random.Random(seed)
    examples = []
    for row in range(rows):
        ids = [draw.randrange(5, VOCABULARY) for _ in range(draw.randrange(3, 9))]
        label = int(ids[0] > VOCABULARY // 2)
        examples.append(Example({"input_ids": ids}, len(ids), row, f"rows:{row + 1}", label))
    return Examples(examples, {})


@pytest.fixture(scope="session")
def task():
    return Classification(column_names={"text": "text", "label": "label"}, max_length=16, labels=LABELS)


@pytest.fixture
def make_job(tmp_path: Path, task: Classification) -> Callable[..., Job]:
    """Return what makes a job; its arguments replace the training section's keys and the job's."""

    def make(
        *,
        methods=None,
        seed: int = 0,
        rows: int = 12,
        held_out: int = 10,
        batch_size: int = 4,
        micro_batch_size: int = 3,
        family: str = "bert",
        learning_rate: float = 1e-2,
        evaluate_with: Callable[[Any], dict[str, float]] | None = None,
        section: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Job:
        seed_all(seed)
        accelerator = changes.pop("accelerator", None) or Accelerator(cpu=True)
        methods = (Lora(rank=2, alpha=4.0, dropout=0.1),) if methods is None else methods
        delta = attach(methods, tiny_base(family, "classification", labels=len(LABELS)), seed=seed)
        examples, unseen = make_examples(rows, 0), make_examples(held_out, 1)
        settings = EvaluationSettings(batch_size=4, pad=0, accelerator=accelerator)

        def measure():
            if evaluate_with:
                return evaluate_with(delta)
            return evaluate(delta.base.network, task, unseen, settings)[0]

        job = Job(
            delta=delta,
            task=task,
            batches=Batches(
                examples,
                Share(
                    task=task,
                    micro_batch_size=micro_batch_size,
                    pad=0,
                    rank=accelerator.process_index,
                    world=accelerator.num_processes,
                ),
                batch_size=batch_size,
                seed=seed,
            ),
            training=TrainingSection(**{"epochs": 2.0, **(section or {})}),
            rates=lambda delta: dict.fromkeys(delta.trained(), learning_rate),
            evaluate=measure,
            every="epoch",
            select="loss",
            higher_is_better=False,
            accelerator=accelerator,
            folder=tmp_path,
            identity={"recipe": "1", "data": "2"},
            resume=False,
            progress=Heard(),
            precision="float32",
        )
        return replace(job, **changes)

    return make
