"""What is trained for any task is saved, opened again and merged, or says that it cannot be merged."""

import pytest
import torch
from adapted_models import TASKS, adapt, logits, reopened, save_base

from peftcli.artifact.merging import MergeSettings, stream
from peftcli.base.loading import load_base
from peftcli.base.source import find_source
from peftcli.data.tasks import task_from_manifest
from peftcli.delta.delta import attach
from peftcli.errors import MethodError

ENCODERS = ("bert", "roberta", "electra", "distilbert", "deberta-v2")
NETWORKS = [
    *((family, "token-classification") for family in (*ENCODERS, "gpt2", "bloom", "llama")),
    *((family, "span-qa") for family in ENCODERS),
    *((family, task) for task in ("regression", "multi-label-classification") for family in ("bert", "llama")),
]
FOLDING = [{"name": "lora", "rank": 2}, {"name": "bitfit"}, {"name": "full"}]
STAYING = [{"name": "houlsby", "bottleneck": 2}, {"name": "prefix", "prefix_length": 2}]


def by_name(method: dict) -> str:
    return method["name"]


def adapted_or_skipped(base, run, method, task):
    try:
        return adapt(base, run, method, task)
    except MethodError as error:  # LLaMA has no biases, DeBERTa no place for a prefix
        pytest.skip(f"refuses: {str(error).splitlines()[0]}")


@pytest.mark.parametrize("method", FOLDING, ids=by_name)
@pytest.mark.parametrize(("family", "task"), NETWORKS)
def test_a_merged_network_computes_what_the_adapted_one_does(tmp_path, family, task, method):
    base = save_base(tmp_path / "base", family)
    adapted = adapted_or_skipped(base, tmp_path / "run", method, task)
    stream(adapted.artifact, base, tmp_path / "merged", MergeSettings())
    merged = reopened(tmp_path / "merged", task)
    assert type(merged) is type(adapted.delta.base.network)
    assert torch.allclose(logits(merged), adapted.logits(), atol=1e-5)
    kind = merged.config.problem_type
    assert kind == {"regression": "regression", "multi-label-classification": "multi_label_classification"}.get(task)


@pytest.mark.parametrize("method", STAYING, ids=by_name)
@pytest.mark.parametrize(("family", "task"), NETWORKS)
def test_what_is_no_change_of_weights_is_refused(tmp_path, family, task, method):
    base = save_base(tmp_path / "base", family)
    adapted = adapted_or_skipped(base, tmp_path / "run", method, task)
    with pytest.raises(MethodError, match="cannot be merged"):
        stream(adapted.artifact, base, tmp_path / "merged", MergeSettings())


@pytest.mark.parametrize("method", [*FOLDING, *STAYING], ids=by_name)
@pytest.mark.parametrize(("family", "task"), NETWORKS)
def test_what_was_saved_is_the_same_when_it_is_opened_again(tmp_path, family, task, method):
    base = save_base(tmp_path / "base", family)
    adapted = adapted_or_skipped(base, tmp_path / "run", method, task)
    asked = task_from_manifest(adapted.artifact.manifest.task)
    source, settings = find_source(str(base)), asked.network_settings()
    fresh = load_base(source, task_class=TASKS[task][0], settings=settings, dtype="auto", new_head=True, seed=5)
    delta = attach(adapted.artifact.methods, fresh, seed=5)
    delta.load(adapted.artifact.tensors())
    assert torch.equal(logits(fresh.network), adapted.logits())
