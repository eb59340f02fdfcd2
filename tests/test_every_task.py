"""The contract between tasks, methods and families: counts in closed form, and a state that goes round."""

from __future__ import annotations

import pytest
import torch
from tiny import DECODERS, READERS, TAGGERS, tiny_base, tiny_batch

from peftcli.base.anatomy import NETWORKS, Anatomy
from peftcli.data.tasks import task_from_manifest
from peftcli.delta.count import closed_form, counted
from peftcli.delta.delta import Delta, attach
from peftcli.delta.registry import read_methods
from peftcli.errors import MethodError

MANIFESTS = {
    "regression": {"columns": {"text": "text", "label": "label"}},
    "multi-label-classification": {"columns": {"text": "text", "label": "label"}, "labels": list("abcd")},
    "token-classification": {"columns": {"tokens": "tokens", "tags": "tags"}, "labels": ["B-X", "I-X", "O"]},
    "span-qa": {
        "columns": {"question": "question", "context": "context", "answers": "answers"},
        "doc_stride": 4,
        "max_answer_length": 3,
        "null_threshold": 0.0,
        "unanswerable": False,
    },
    "multiple-choice": {"columns": {"prompt": "p", "choices": "c", "answer": "a"}, "normalise": "token"},
}
FAMILIES = {
    "regression": ("bert", "deberta-v2", "gpt2", "llama", "t5", "bart"),
    "multi-label-classification": ("bert", "electra", "gpt2", "llama", "t5", "bart"),
    "token-classification": TAGGERS,
    "span-qa": READERS,
    "multiple-choice": DECODERS,
}
METHODS = {
    "lora": {"rank": 2, "target_modules": "all-linear"},
    "bitfit": {},
    "houlsby": {"bottleneck": 2},
    "prefix": {"prefix_length": 2},
    "full": {},
}
CELLS = [(task, family, method) for task, families in FAMILIES.items() for family in families for method in METHODS]


@pytest.fixture(params=CELLS, ids="-".join)
def cell(request) -> tuple[str, str, str]:
    try:
        adapted(*request.param)
    except MethodError as error:
        pytest.skip(f"refuses: {str(error).splitlines()[0]}")
    return request.param


def task_of(name: str):
    return task_from_manifest({"name": name, "max_length": 16, **MANIFESTS[name]})


def adapted(task: str, family: str, method: str, seed: int = 0) -> Delta:
    asked = task_of(task)
    kind, labels = NETWORKS[asked.model_class], asked.network_settings().get("num_labels", 0)
    methods = read_methods({"name": method, **METHODS[method]})
    return attach(methods, tiny_base(family, kind, labels=labels), seed=seed)


def batch_for(task: str, family: str) -> dict[str, torch.Tensor]:
    inputs = tiny_batch(family)
    if task == "span-qa":  # the answers are tokens 3 and 4 of the one, and nowhere in the other
        tags = torch.tensor([[4, -100, 0, 1, 2, 0, 0], [7, -100, 0, 0, 0, -100, -100]])
        return {**inputs, "tags": tags, "windows": torch.tensor([1, 1])}
    if task == "multiple-choice":  # one row with two choices of 3 and 2 tokens, of which the second is right
        sizes = {"lengths": torch.tensor([3, 2]), "characters": torch.tensor([9, 7])}
        return {**inputs, **sizes, "choices": torch.tensor([2]), "labels": torch.tensor([1])}
    labels = {
        "regression": torch.tensor([1.5, -2.0]),
        "multi-label-classification": torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0]]),
        "token-classification": torch.full_like(inputs["input_ids"], -100),
    }[task]
    if task == "token-classification":
        labels[:, 1:4] = torch.tensor([[0, 1, 2], [2, 0, 2]])
    return {**inputs, "labels": labels}


def test_its_closed_form_is_what_is_counted(cell):
    delta = adapted(*cell).pack()
    form, found = closed_form(delta.methods, delta.base.anatomy), counted(delta)
    assert (form.delta, form.base, form.head) == (found.delta, found.base, found.head)
    assert form.per_site == found.per_site


def test_its_state_goes_round_bit_for_bit(cell):
    task, family, _ = cell
    delta = adapted(*cell)
    with torch.no_grad():
        for parameter in delta.trained().values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    finished = delta.pack()
    fresh = attach(finished.methods, adapted_base(task, family), seed=2)
    fresh.load(finished.state())
    batch = batch_for(task, family)
    assert task_of(task).outcomes(fresh.base.network, batch) == task_of(task).outcomes(finished.base.network, batch)


def adapted_base(task: str, family: str):
    asked = task_of(task)
    return tiny_base(family, NETWORKS[asked.model_class], labels=asked.network_settings().get("num_labels", 0))


def test_the_loss_is_the_sum_of_what_every_row_adds_and_reaches_the_delta(cell):
    task, family, _ = cell
    delta, asked, batch = adapted(*cell), task_of(task), batch_for(task, family)
    loss = asked.loss(delta.base.network, batch)
    rows = asked.outcomes(delta.base.network, batch)
    assert loss.item() == pytest.approx(sum(row["loss"] for row in rows), rel=1e-4)
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in delta.trained().values())
    names = ("loss",) if task == "span-qa" else asked.metric_names  # no batch holds the texts of answers
    assert set(asked.scored(rows, names)) == set(names)


@pytest.mark.parametrize("family", TAGGERS)
def test_a_head_for_tokens_is_counted_from_the_config_alone(family):
    base = adapted_base("token-classification", family)
    anatomy = Anatomy.of(base.network.config.to_dict(), task="token-classification", labels=3)
    assert (anatomy.size, anatomy.head_size) == (base.size, base.head_size)


@torch.no_grad()
@pytest.mark.parametrize(
    ("task", "family"),
    [(t, f) for t in ("regression", "multi-label-classification", "token-classification") for f in FAMILIES[t]],
)
def test_the_loss_is_that_of_transformers_own_head(task, family):
    base, asked, batch = adapted_base(task, family), task_of(task), batch_for(task, family)
    for name, value in asked.network_settings().items():
        setattr(base.network.config, name, value)
    labels = batch["labels"].squeeze(-1)
    theirs = base.network.eval()(**{**batch, "labels": labels}).loss
    # transformers gives a mean over rows, over rows and labels, or over the tokens that have a tag.
    terms = {"token-classification": int((labels != -100).sum())}.get(task, labels.numel())
    assert asked.loss(base.network, batch).item() == pytest.approx(theirs.item() * terms, rel=1e-5)
