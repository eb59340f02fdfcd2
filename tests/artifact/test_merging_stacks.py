"""Streamed merges of stacks, and of methods whose blocks share tensors."""

import pytest
import torch
from adapted_models import adapt, logits, reopened, save_base

from peftcli.artifact.merging import MergeSettings, stream
from peftcli.errors import MethodError

LORA = {"name": "lora", "rank": 2, "target_modules": "all-linear"}
BITFIT = {"name": "bitfit", "biases": ["W_q", "W_v", "W_up"]}
SHARED = [
    {"name": "fact", "rank": 3},
    {"name": "fact", "form": "tk", "rank": 3},
    {"name": "intrinsic_dimension", "dimension": 50},
    {"name": "intrinsic_dimension", "form": "said", "dimension": 50},
]
STACKS = [*SHARED, [LORA, BITFIT], [BITFIT, LORA], [SHARED[0], LORA, SHARED[3]]]
NETWORKS = [("bert", "classification"), ("gpt2", "causal-lm")]


def name(method) -> str:
    parts = method if isinstance(method, list) else [method]
    return "+".join("-".join(str(v) for v in p.values() if isinstance(v, str)) for p in parts)


@pytest.mark.parametrize("method", STACKS, ids=name)
@pytest.mark.parametrize(("family", "task"), NETWORKS)
def test_a_merged_model_computes_what_the_adapted_one_does(tmp_path, family, task, method):
    base = save_base(tmp_path / "base", family, "AutoModel" if task == "classification" else "AutoModelForCausalLM")
    adapted = adapt(base, tmp_path / "run", method, task)
    stream(adapted.artifact, base, tmp_path / "merged", MergeSettings())
    assert torch.allclose(logits(reopened(tmp_path / "merged", task)), adapted.logits(), atol=1e-5)


def test_a_stack_with_a_part_that_is_no_change_of_weights_is_refused(tmp_path):
    base = save_base(tmp_path / "base", "bert")
    adapted = adapt(base, tmp_path / "run", [LORA, {"name": "houlsby", "bottleneck": 2}], "classification")
    with pytest.raises(MethodError, match="houlsby cannot be merged"):
        stream(adapted.artifact, base, tmp_path / "merged", MergeSettings())
