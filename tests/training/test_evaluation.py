from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from tiny import tiny_base

from peftcli.data.examples import Example, Examples
from peftcli.training.evaluation import EvaluationSettings, evaluate


@pytest.fixture
def examples():
    lengths = [3, 9, 5, 2, 7, 4, 8]
    rows = [Example({"input_ids": list(range(5, 5 + n))}, n, i, f"rows:{i}", i % 2) for i, n in enumerate(lengths)]
    return Examples(rows, {})


def settings(**changes):
    return EvaluationSettings(**{"batch_size": 3, "pad": 0, "accelerator": Accelerator(cpu=True), **changes})


def test_outcomes_stand_in_the_order_of_the_examples(task, examples):
    network = tiny_base("bert", "classification", labels=2).network
    _, outcomes = evaluate(network, task, examples, settings())
    assert len(outcomes) == 7
    for example, outcome in zip(examples, outcomes, strict=True):
        alone = task.outcomes(network, task.collate([example], 0, None))[0]
        assert outcome == pytest.approx(alone, rel=1e-5, abs=1e-6)


def test_metrics_come_with_the_number_of_examples(task, examples):
    network = tiny_base("bert", "classification", labels=2).network
    metrics, _ = evaluate(network, task, examples, settings(), ["accuracy"])
    assert set(metrics) == {"accuracy", "n"}
    assert metrics["n"] == 7


def test_a_batch_of_any_size_gives_the_same_metrics(task, examples):
    network = tiny_base("bert", "classification", labels=2).network
    one, many = (evaluate(network, task, examples, settings(batch_size=size))[0] for size in (1, 7))
    assert one == pytest.approx(many)


def test_measuring_has_no_dropout_no_gradient_and_no_effect(task, examples):
    network = tiny_base("bert", "classification", labels=2).network
    network.train()
    first, second = (evaluate(network, task, examples, settings())[1] for _ in range(2))
    assert first == second
    assert all(module.training for module in network.modules())
    assert all(p.grad is None for p in network.parameters())


def test_bfloat16_is_close(task, examples):
    network = tiny_base("bert", "classification", labels=2).network
    _, exact = evaluate(network, task, examples, settings())
    _, rough = evaluate(network, task, examples, settings(precision="bfloat16"))
    assert exact != rough
    assert [o["loss"] for o in exact] == pytest.approx([o["loss"] for o in rough], abs=0.05)
    assert not torch.is_autocast_enabled("cpu")
