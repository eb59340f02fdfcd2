"""A stack of which a part is folded: the merged base and the delta that stays compute what the whole stack did."""

import json

import pytest
import torch
from adapted_models import TASKS, adapt, save_base
from safetensors.torch import load_file
from tiny import VOCABULARY

from peftcli.artifact.artifact import check_base, open_artifact
from peftcli.artifact.fingerprint import fingerprint
from peftcli.artifact.merging import MergeSettings, stream
from peftcli.base.loading import load_base
from peftcli.base.source import find_source
from peftcli.delta.delta import Delta, attach
from peftcli.errors import MethodError

PARTIAL = MergeSettings(partial=True)
LORA = {"name": "lora", "rank": 2, "target_modules": "all-linear"}
DORA = {"name": "dora", "rank": 2}
IA3 = {"name": "ia3"}
SPARSE = {"name": "lt_sft", "entries": "20%"}
PFEIFFER = {"name": "pfeiffer", "bottleneck": 2}
HOULSBY = {"name": "houlsby", "bottleneck": 2}
PREFIX = {"name": "prefix", "prefix_length": 2}
PROMPT = {"name": "prompt", "prompt_length": 2}
NORMED = {"name": "lnlora", "rank": 2, "target_modules": ["W_q", "W_v"]}
PLUS_NORMS = {"name": "lnlora", "rank": 2, "form": "plus_ln"}
STACKS = {  # and what of it is folded
    "lora+pfeiffer": ([LORA, PFEIFFER], ["lora"]),
    "prefix+lora": ([PREFIX, LORA], ["lora"]),
    "ia3+prompt": ([IA3, PROMPT], ["ia3"]),
    "lora+ia3+parallel": ([LORA, {"name": "parallel", "bottleneck": 2}, IA3], ["lora", "ia3"]),
    "dora+houlsby": ([DORA, HOULSBY], ["dora"]),
    "lt_sft+prefix": ([SPARSE, PREFIX], ["lt_sft"]),
    "full+houlsby": ([{"name": "full"}, HOULSBY], ["full"]),
    "houlsby+full": ([HOULSBY, {"name": "full"}], ["full"]),
    "lora+lnlora": ([LORA, NORMED], ["lora"]),
    "lnlora+lora": ([NORMED, LORA], ["lora"]),
    "two of one name": ([NORMED, PLUS_NORMS], ["lnlora"]),
    "between two of one name": (
        [PFEIFFER, {"name": "lora", "rank": 2}, PFEIFFER | {"bottleneck": 3}, DORA | {"target_modules": ["W_o"]}],
        ["lora", "dora"],
    ),
    "head+lora+prefix": ([{"name": "head"}, LORA, PREFIX], ["head", "lora"]),
    "ia3 elsewhere": ([IA3 | {"target_modules": ["W_v", "W_down"]}, NORMED | {"target_modules": ["W_q"]}], ["ia3"]),
}
NETWORKS = [
    ("bert", "AutoModel", "classification"),
    ("roberta", "AutoModelForMaskedLM", "classification"),
    ("gpt2", "AutoModelForCausalLM", "causal-lm"),
    ("llama", "AutoModelForCausalLM", "causal-lm"),
    ("llama", "AutoModelForSequenceClassification", "classification"),
    ("phi3", "AutoModelForCausalLM", "causal-lm"),
    ("t5", "AutoModel", "classification"),
]


def pair(folder, task: str):
    """Return the network of a merged folder with the delta that stays in it, and that delta."""
    artifact = open_artifact(folder)
    check_base(artifact, fingerprint(folder), str(folder))
    assert artifact.manifest.base.config == json.loads((folder / "config.json").read_text())
    auto, about = TASKS[task]
    labels = len(about.get("labels", ()))
    settings = {"num_labels": labels} if labels else {}
    base = load_base(
        find_source(str(folder)), task_class=auto, settings=settings, dtype="auto", new_head=bool(labels), seed=5
    )
    delta = attach(artifact.methods, base, seed=5)
    delta.load(artifact.tensors())
    return base.network, delta


@torch.no_grad()
def computed(network, delta: Delta | None) -> torch.Tensor:
    """Return the logits, with the virtual tokens of ``delta`` where they belong."""
    ids = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(2))
    ids[:, -1] = network.config.eos_token_id or 2  # T5 pools it
    found = (m.virtual_tokens(delta.base.anatomy) for m in delta.methods) if delta else ()
    for virtual in (v for v in found if v is not None):
        prompt = torch.arange(virtual.first_id, virtual.first_id + virtual.count).expand(2, -1)
        ids = torch.cat([ids[:, : virtual.after], prompt, ids[:, virtual.after :]], 1)
    return network.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize(("family", "saved_as", "task"), NETWORKS)
def test_the_merged_base_and_what_stays_compute_what_the_stack_did(tmp_path, family, saved_as, task, stack):
    methods, folded = STACKS[stack]
    base = save_base(tmp_path / "base", family, saved_as)
    adapted = adapt(base, tmp_path / "run", methods, task)
    summary = stream(adapted.artifact, base, tmp_path / "merged", PARTIAL)
    assert list(summary.folded) == folded
    assert len(summary.staying) == len(methods) - len(folded)
    assert summary.changed
    network, delta = pair(tmp_path / "merged", task)
    wanted = computed(adapted.delta.base.network, delta)
    assert torch.allclose(computed(network, delta), wanted, atol=1e-5)
    with delta.disabled():
        alone = computed(network, None)
        assert not torch.allclose(alone, wanted[:, -alone.shape[1] :], atol=1e-3)


def test_the_merged_base_is_a_base_as_before_and_the_head_stays_with_the_delta(tmp_path):
    base = save_base(tmp_path / "base", "bert", "AutoModelForMaskedLM")
    adapted = adapt(base, tmp_path / "run", [LORA, PFEIFFER], "classification")
    stream(adapted.artifact, base, tmp_path / "merged", PARTIAL)
    before, after = (load_file(tmp_path / f / "model.safetensors") for f in ("base", "merged"))
    assert before.keys() == after.keys()
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved == {n for n in before if ".layer." in n and n.endswith("weight") and "LayerNorm" not in n}
    config = json.loads((base / "config.json").read_text())
    assert json.loads((tmp_path / "merged" / "config.json").read_text()) == config
    assert {"head.classifier.weight", "head.classifier.bias"} <= open_artifact(tmp_path / "merged").tensors().keys()
    said = json.loads((tmp_path / "merged" / "peftcli.json").read_text())
    assert [m["name"] for m in said["methods"]] == ["lora"]
    assert [m["name"] for m in said["staying"]] == ["pfeiffer"]
    assert said["task"] is None


def test_the_pair_knows_its_counts_and_is_not_merged_again(tmp_path):
    base = save_base(tmp_path / "base", "bert")
    adapted = adapt(base, tmp_path / "run", [LORA, PFEIFFER], "classification")
    stream(adapted.artifact, base, tmp_path / "merged", PARTIAL)
    _, delta = pair(tmp_path / "merged", "classification")
    own = open_artifact(tmp_path / "merged")
    counts = own.manifest.counts
    assert (counts["delta"], counts["head"]) == (delta.size, delta.head_size)
    with pytest.raises(MethodError, match="not even in part"):
        stream(own, tmp_path / "merged", tmp_path / "again", PARTIAL)
    with pytest.raises(MethodError, match="already merged"):
        stream(adapted.artifact, tmp_path / "merged", tmp_path / "again", PARTIAL)


def test_another_type_holds_for_the_pair(tmp_path):
    base = save_base(tmp_path / "base", "llama", "AutoModelForCausalLM")
    adapted = adapt(base, tmp_path / "run", [LORA, PREFIX], "causal-lm")
    stream(adapted.artifact, base, tmp_path / "merged", MergeSettings(partial=True, dtype="bfloat16"))
    network, delta = pair(tmp_path / "merged", "causal-lm")
    assert network.dtype == torch.bfloat16
    assert open_artifact(tmp_path / "merged").manifest.base.dtype == "bfloat16"
    assert torch.allclose(computed(network, delta).float(), adapted.logits(), atol=0.1)


def test_what_can_be_folded_altogether_is_merged_as_ever(tmp_path):
    base = save_base(tmp_path / "base", "bert")
    adapted = adapt(base, tmp_path / "run", [LORA, IA3], "classification")
    summary = stream(adapted.artifact, base, tmp_path / "merged", PARTIAL)
    assert summary.staying == ()
    assert not (tmp_path / "merged" / "delta").exists()
    stream(adapted.artifact, base, tmp_path / "whole", MergeSettings())
    one, other = ((tmp_path / f / "model.safetensors").read_bytes() for f in ("merged", "whole"))
    assert one == other


def test_a_method_that_this_base_cannot_hold_stays(tmp_path):
    base = save_base(tmp_path / "base", "llama", "AutoModelForCausalLM")
    adapted = adapt(base, tmp_path / "run", [LORA, {"name": "adapter_bias", "train_norms": False}], "causal-lm")
    summary = stream(adapted.artifact, base, tmp_path / "merged", PARTIAL)
    assert (summary.folded, summary.staying) == (("lora",), ("adapter_bias",))
    network, delta = pair(tmp_path / "merged", "causal-lm")
    assert torch.allclose(computed(network, delta), computed(adapted.delta.base.network, delta), atol=1e-5)


REFUSALS = {
    "a scale around a branch that stays": ([NORMED, IA3], r"ia3 cannot be folded without lnlora: at .*W_v"),
    "a scale around a gated branch": ([IA3, {"name": "unipelt"}], "ia3 cannot be folded without unipelt"),
    "a norm that trains under entries that move": (
        [SPARSE | {"freeze_norms": False, "entries": "100%"}, HOULSBY],
        "trained by a method that stays and changed by one that is folded",
    ),
    "nothing to fold": ([PREFIX, HOULSBY], r"prefix \+ houlsby cannot be merged, not even in part"),
    "only the head": ([{"name": "head"}, PREFIX], "not even in part"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_part_is_refused(tmp_path, case):
    methods, message = REFUSALS[case]
    base = save_base(tmp_path / "base", "bert")
    artifact = adapt(base, tmp_path / "run", methods, "classification").artifact
    with pytest.raises(MethodError, match=message):
        stream(artifact, base, tmp_path / "merged", PARTIAL)
    assert not (tmp_path / "merged").exists()


def test_without_being_told_to_nothing_is_folded_and_the_option_is_named(tmp_path):
    base = save_base(tmp_path / "base", "bert")
    artifact = adapt(base, tmp_path / "run", [PREFIX, LORA, IA3], "classification").artifact
    with pytest.raises(
        MethodError, match=r"prefix cannot be merged.*\n  hint: Write --partial to fold lora \+ ia3 alone"
    ):
        stream(artifact, base, tmp_path / "merged", MergeSettings())
