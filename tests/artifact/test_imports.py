"""What others stored becomes ours with the same numbers and the same function, or is refused with the reason."""

import json
import shutil

import pytest
import torch
import transformers
from adapted_models import TASKS, adapt, logits, save_base
from safetensors.torch import load_file, save_file
from test_exports import ALL, BASES, QV

from peftcli.artifact.artifact import open_artifact
from peftcli.base.loading import load_base
from peftcli.base.source import find_source
from peftcli.delta.delta import attach
from peftcli.errors import ArtifactError, RecipeError
from peftcli.pipeline.exporting import export
from peftcli.pipeline.importing import ImportRequest, import_delta

LABELS = ("no", "maybe", "yes")


def imported(source, base, out, **request):
    """Import, and return what was said and the adapted network."""
    result = import_delta(ImportRequest(source=source, base=str(base), **request), out)
    return result, reopened(out, base)


def reopened(folder, base):
    artifact = open_artifact(folder)
    task = artifact.manifest.task
    auto, labels = TASKS[task["name"]][0], task.get("labels")
    settings = {"num_labels": len(labels)} if labels else {}
    source = find_source(str(base))
    model = load_base(source, task_class=auto, settings=settings, dtype="auto", new_head=bool(labels), seed=3)
    delta = attach(artifact.methods, model, seed=3)
    delta.load(artifact.tensors())
    delta.base.network.eval()
    return delta


ROUND_TRIPS = {
    "lora": ({"name": "lora", **QV}, ALL),
    "rsLoRA": ({"name": "lora", **QV, "scaling": "rank_stabilised", "alpha": 7.0}, ("bert", "gpt2", "phi3")),
    "LoRA of one layer": ({"name": "lora", **QV, "layers": 1}, ("bert", "gpt2", "llama")),
    "LoRA of all": ({"name": "lora", "rank": 3, "alpha": 5.0, "target_modules": "all-linear"}, ALL),
    "LoRA of W_v": ({"name": "lora", "rank": 2, "target_modules": ["W_v"]}, ("gpt2", "phi3", "gpt_neox")),
    "dora": ({"name": "dora", **QV}, ALL),
    "ia3": ({"name": "ia3"}, ALL),
    "prompt": ({"name": "prompt", "prompt_length": 3, "placement": "start"}, ("bert", "gpt2", "llama")),
    "prefix": ({"name": "prefix", "prefix_length": 3, "hidden": 5, "positions": "shifted"}, ("gpt2", "llama")),
}


@pytest.mark.parametrize(("kind", "base"), [(k, base) for k, (_, bases) in ROUND_TRIPS.items() for base in bases])
def test_what_peft_is_given_comes_back_bit_for_bit(tmp_path, kind, base):
    family, saved_as, task = BASES[base]
    adapted = adapt(save_base(tmp_path / "base", family, saved_as), tmp_path / "run", ROUND_TRIPS[kind][0], task)
    export(tmp_path / "run", tmp_path / "adapter", "peft")
    labels = LABELS if task == "classification" else None
    said, delta = imported(tmp_path / "adapter", adapted.base, tmp_path / "back", labels=labels)
    assert said["method"] == adapted.delta.methods[0].name
    assert said["hf_peft"] == adapted.artifact.manifest.hf_peft
    before, after = adapted.artifact.tensors(), open_artifact(tmp_path / "back").tensors()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert torch.equal(logits(delta.base.network, adapted.virtual()), adapted.logits())
    export(tmp_path / "back", tmp_path / "again", "peft")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        one, other = ((tmp_path / folder / name).read_bytes() for folder in ("adapter", "again"))
        if name.endswith("json"):
            one, other = json.loads(one), json.loads(other)
            one["base_model_name_or_path"] = other["base_model_name_or_path"] = None  # ours has no hub id
        assert one == other


def trained_by_peft(folder, base, task, config):
    """Give peft's own model random numbers, save it, and return its logits."""
    import peft

    settings = {"num_labels": 3} if task == "classification" else {}
    network = getattr(transformers, TASKS[task][0]).from_pretrained(base, **settings)
    before = logits(network)
    model = peft.get_peft_model(network, config)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder / "adapter")
    after = logits(model)
    assert (after[:, -before.shape[1] :] - before).abs().max() > 1e-2
    return after


def peft_configs():
    from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig

    classify, generate = {"task_type": "SEQ_CLS"}, {"task_type": "CAUSAL_LM"}
    fused = {"fan_in_fan_out": True, **generate}
    return {
        "bert-lora": LoraConfig(r=3, lora_alpha=7, target_modules=["query", "value"], **classify),
        "bert-dora": LoraConfig(r=3, target_modules=["query", "intermediate.dense"], use_dora=True, **classify),
        "bert-ia3": IA3Config(
            target_modules=r".*(key|value|\d\.output\.dense)", feedforward_modules=["layer.0.output.dense"], **classify
        ),
        "t5-lora": LoraConfig(r=3, target_modules=["q", "v"], modules_to_save=["classification_head"], **classify),
        "gpt2-lora": LoraConfig(r=3, target_modules=["c_attn"], **fused),
        "gpt2-all": LoraConfig(r=3, target_modules=["c_attn", "c_fc", "c_proj"], use_rslora=True, **fused),
        "gpt2-dora": LoraConfig(r=3, target_modules=["c_attn"], use_dora=True, **fused),
        "gpt2-prefix": PrefixTuningConfig(num_virtual_tokens=3, **generate),
        "gpt2-prompt": PromptTuningConfig(num_virtual_tokens=3, **generate),
        "llama-lora": LoraConfig(r=3, target_modules="all-linear", **generate),
        "llama-layers": LoraConfig(r=3, target_modules=["q_proj"], layers_to_transform=[1], **generate),
        "llama-regex": LoraConfig(r=3, target_modules=r".*layers\.1.*(k|o)_proj", **generate),
        "llama-pattern": LoraConfig(
            r=9, rank_pattern={"q_proj": 2}, alpha_pattern={"q_proj": 5}, target_modules=["q_proj"], **generate
        ),
        "llama-ia3": IA3Config(
            target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], **generate
        ),
        "phi3-lora": LoraConfig(r=3, target_modules=["qkv_proj", "gate_up_proj"], **generate),
        "gpt_neox-lora": LoraConfig(r=3, target_modules=["query_key_value"], **generate),
    }


CASES = (
    *("bert-lora", "bert-dora", "t5-lora", "gpt2-lora", "gpt2-all", "gpt2-dora", "gpt2-prefix", "gpt2-prompt"),
    *("llama-lora", "llama-layers", "llama-regex", "llama-pattern", "llama-ia3", "phi3-lora", "gpt_neox-lora"),
)


@pytest.mark.filterwarnings("ignore")  # what peft says while it trains and saves is not the matter here
@pytest.mark.parametrize("case", CASES)
def test_what_peft_trained_computes_the_same_here(tmp_path, case):
    pytest.importorskip("peft")
    base, config = case.partition("-")[0], peft_configs()[case]
    family, saved_as, task = BASES[base]
    folder = save_base(tmp_path / "base", family, "AutoModel" if family == "bert" else saved_as)
    theirs = trained_by_peft(tmp_path, folder, task, config)
    labels = LABELS if task == "classification" else None
    said, delta = imported(tmp_path / "adapter", folder, tmp_path / "ours", labels=labels)
    virtual = 3 if said["method"] == "prompt" else 0
    difference = (logits(delta.base.network, virtual) - theirs).abs().max()
    print(f"{case:14s} -> {said['method']:7s} {said['hf_peft']:9s} max |difference| {difference:.1e}")
    assert difference <= 5e-6


@pytest.fixture
def adapter(tmp_path):
    """A sound LoRA of peft's for a tiny LLaMA, with its base."""
    base = save_base(tmp_path / "base", "llama", "AutoModelForCausalLM")
    adapt(base, tmp_path / "run", {"name": "lora", **QV}, "causal-lm")
    export(tmp_path / "run", tmp_path / "adapter", "peft")
    return tmp_path / "adapter", base


def change_config(folder, **settings):
    path = folder / "adapter_config.json"
    content = {**json.loads(path.read_text()), **settings}
    path.write_text(json.dumps({k: v for k, v in content.items() if v != "GONE"}))


def change_tensors(folder, change):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    path.unlink()
    save_file({n: t.contiguous() for n, t in change(tensors).items()}, path)


NAN = torch.full((2, 16), float("nan"))
DAMAGES = {
    "half the keys": lambda t: dict(list(t.items())[: len(t) // 2]),
    "one layer": lambda t: {n: x for n, x in t.items() if ".layers.1." not in n},
    "one module": lambda t: {n: x for n, x in t.items() if "layers.1.self_attn.v_proj" not in n},
    "one A": lambda t: {n: x for i, (n, x) in enumerate(t.items()) if i},
    "renamed": lambda t: {n.replace("lora_A", "lora_X"): x for n, x in t.items()},
    "another prefix": lambda t: {n.replace("base_model.model.", "model.base."): x for n, x in t.items()},
    "another module": lambda t: {n.replace("q_proj", "query"): x for n, x in t.items()},
    "an extra key": lambda t: {**t, "base_model.model.lm_head.weight": torch.zeros(61, 16)},
    "an extra tensor": lambda t: {**t, "base_model.model.model.layers.0.self_attn.q_proj.lora_E": torch.zeros(2, 1)},
    "an extra DoRA": lambda t: {
        **t,
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector": torch.ones(16),
    },
    "NaN": lambda t: {n: NAN if "layers.0.self_attn.q_proj.lora_A" in n else x for n, x in t.items()},
    "a shape": lambda t: {n: x[:, :-1] if n.endswith("q_proj.lora_A.weight") else x for n, x in t.items()},
    "a rank": lambda t: {n: x[:1] if "lora_A" in n else x[:, :1] for n, x in t.items()},
    "whole numbers": lambda t: {n: x.int() for n, x in t.items()},
    "a bias": lambda t: {**t, "base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias": torch.zeros(16)},
    "nothing": lambda _: {},
}

REASONS = {
    "half the keys": "2 of them have no tensors",
    "one layer": "2 of them have no tensors",
    "one module": "1 of them have no tensors",
    "one A": "lora_A or lora_B, but not both",
    "renamed": "lora_X.weight is no tensor of a LORA",
    "another prefix": "4 modules have no place",
    "another module": "2 modules have no place",
    "an extra key": "it trained 1 tensors of the base model itself",
    "an extra tensor": "lora_E is no tensor",
    "an extra DoRA": "lora_magnitude_vector is no tensor",
    "NaN": "holds NaN",
    "a shape": "rank 2 on this base model makes",
    "a rank": "rank 2 on this base model makes",
    "whole numbers": "holds int32, not numbers",
    "a bias": "1 tensors have no place",
    "nothing": "holds no tensors",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_tensors_are_refused(tmp_path, adapter, damage):
    folder, base = adapter
    change_tensors(folder, DAMAGES[damage])
    with pytest.raises(ArtifactError, match=REASONS[damage]):
        imported(folder, base, tmp_path / "out")
    assert not (tmp_path / "out").exists()


CONFIGS = {
    "target_modules": {"target_modules": ["k_proj", "v_proj"]},
    "lora_alpha is '16.0'": {"peft_type": "IA3", "feedforward_modules": []},
    "peft_type is 'BOGUS'": {"peft_type": "BOGUS"},
    "peft_type is missing": {"peft_type": "GONE"},
    "peft_type is \\['LORA'\\]": {"peft_type": ["LORA"]},
    "lora_alpha is missing": {"lora_alpha": "GONE"},
    "r is missing": {"r": "GONE"},
    "target_modules is missing": {"target_modules": "GONE"},
    "r is 0": {"r": 0},
    "r is True": {"r": True},
    "rank 3": {"r": 3},
    "lora_alpha is -8": {"lora_alpha": -8},
    "lora_alpha is 'much'": {"lora_alpha": "much"},
    "alpha_pattern scales": {"alpha_pattern": {"q_proj": 3}},
    "no regular expression": {"rank_pattern": {"(": 2}},
    "no regular expression: ": {"target_modules": "("},
    "neither a list": {"target_modules": 5},
    "no lora_magnitude_vector": {"use_dora": True},
    "bias": {"bias": "all"},
    "alora_invocation_tokens": {"alora_invocation_tokens": [1, 2]},
    "layer_replication": {"layer_replication": [[0, 2]]},
    "use_qalora": {"use_qalora": True},
    "corda_config": {"corda_config": {"cache_file": "x"}},
    "init_lora_weights is 'pissa'": {"init_lora_weights": "pissa"},
    "init_lora_weights is 'pissa_niter_4'": {"init_lora_weights": "pissa_niter_4"},
    "lora_bias": {"lora_bias": True},
    "target_parameters": {"target_parameters": ["experts"]},
    "trainable_token_indices": {"trainable_token_indices": [4]},
    "of_tomorrow": {"of_tomorrow": 1},
}


@pytest.mark.parametrize("why", CONFIGS)
def test_a_config_that_says_something_else_is_refused_by_name(tmp_path, adapter, why):
    folder, base = adapter
    change_config(folder, **CONFIGS[why])
    with pytest.raises(ArtifactError, match=why if why != "peft_type" else "lora_A.weight is no tensor of a IA3"):
        imported(folder, base, tmp_path / "out")


@pytest.mark.parametrize("settings", [{"num_hidden_layers": 1}, {"num_hidden_layers": 3}, {"hidden_size": 32}])
def test_a_base_of_other_layers_or_widths_is_refused(tmp_path, adapter, settings):
    other = save_base(tmp_path / "other", "llama", "AutoModelForCausalLM", **settings)
    change_config(adapter[0], target_modules=["q_proj", "v_proj"])
    with pytest.raises(ArtifactError):
        imported(adapter[0], other, tmp_path / "out")


def test_a_base_of_another_family_is_refused(tmp_path, adapter):
    other = save_base(tmp_path / "other", "gpt2", "AutoModelForCausalLM")
    with pytest.raises(ArtifactError, match="no place in this gpt2 for causal-lm"):
        imported(adapter[0], other, tmp_path / "out")


def test_it_is_said_that_nothing_proves_the_base(tmp_path, adapter):
    change_config(adapter[0], base_model_name_or_path="someone/llama")
    said, _ = imported(*adapter, tmp_path / "out")
    assert said["base_said"] == "someone/llama"
    assert "nothing in it proves" in said["note"]


def test_a_truncated_file_is_refused(tmp_path, adapter):
    path = adapter[0] / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ArtifactError, match="not a sound safetensors file"):
        imported(*adapter, tmp_path / "out")


def test_a_pickle_is_opened_only_when_asked_and_only_for_tensors(tmp_path, adapter):
    folder, base = adapter
    path = folder / "adapter_model.safetensors"
    torch.save(load_file(path), folder / "adapter_model.bin")
    path.unlink()
    with pytest.raises(ArtifactError, match="is a pickle") as refused:
        imported(folder, base, tmp_path / "out")
    assert "--allow-pickle" in refused.value.problems[0].hint
    said, _ = imported(folder, base, tmp_path / "out", allow_pickle=True)
    assert said["method"] == "lora"
    torch.save({"a": shutil.rmtree}, folder / "adapter_model.bin")
    with pytest.raises(ArtifactError, match="cannot be read as tensors"):
        imported(folder, base, tmp_path / "again", allow_pickle=True)


def test_an_artifact_of_ours_is_used_as_it_is(tmp_path, adapter):
    with pytest.raises(ArtifactError, match="is a delta of peftcli already"):
        imported(tmp_path / "run" / "delta", adapter[1], tmp_path / "out")


@pytest.fixture
def classifier(tmp_path):
    base = save_base(tmp_path / "bert", "bert", "AutoModelForMaskedLM")
    adapt(base, tmp_path / "classifier", {"name": "lora", **QV}, "classification")
    export(tmp_path / "classifier", tmp_path / "theirs", "peft")
    return tmp_path / "theirs", base


@pytest.mark.parametrize(
    ("lost", "why"), [("classifier.weight", "no numbers for 1 tensors"), ("pooler", "no numbers for 2")]
)
def test_a_head_that_is_not_there_is_not_made_up(tmp_path, classifier, lost, why):
    change_tensors(classifier[0], lambda t: {n: x for n, x in t.items() if lost not in n})
    with pytest.raises(ArtifactError, match=why):
        imported(*classifier, tmp_path / "out", labels=LABELS)


def test_labels_are_as_many_as_the_head_has(tmp_path, classifier):
    with pytest.raises(ArtifactError, match=r"\(3, 16\), but the labels make it \(2, 16\)") as refused:
        imported(*classifier, tmp_path / "out", labels=("no", "yes"))
    assert "--labels" in refused.value.problems[0].hint


def test_what_the_delta_does_not_say_is_asked_for(tmp_path, classifier, adapter):
    with pytest.raises(RecipeError, match="trained for classification, not for causal-lm"):
        imported(*classifier, tmp_path / "out", task="causal-lm")
    change_config(adapter[0], task_type=None)
    with pytest.raises(RecipeError, match="does not say what task"):
        imported(*adapter, tmp_path / "out")
    with pytest.raises(RecipeError, match="no column 'txt'"):
        imported(*adapter, tmp_path / "out", task="causal-lm", columns={"txt": "a"})


def loralib_file(path, adapted):
    """Write what loralib would: bare A and B, and the head."""
    from peftcli.blocks.low_rank import LowRank
    from peftcli.methods.lora import by_module

    delta, tensors = adapted.delta, {}

    for name, found in by_module(delta, LowRank).items():
        parts = sorted(found, key=lambda p: p.site.rows or ())
        tensors[f"{name}.lora_A"] = torch.cat([p.A.detach() for p in parts])
        tensors[f"{name}.lora_B"] = torch.cat([p.B.detach() for p in parts])
    for address, parameter in delta.head.items():
        tensors[delta.base.name(address.removeprefix("head."))] = parameter.detach()
    torch.save(tensors, path)


@pytest.mark.parametrize(
    ("base", "parts", "method"),
    [
        ("bert", None, {"name": "lora", **QV}),
        ("gpt2", ("W_q", "W_v"), {"name": "lora", **QV}),  # loralib's MergedLinear with enable_lora
        ("gpt2", None, {"name": "lora", "rank": 2, "target_modules": ["W_q", "W_k", "W_v"]}),
    ],
)
def test_a_file_of_loralib_comes_back_bit_for_bit(tmp_path, base, parts, method):
    family, saved_as, task = BASES[base]
    adapted = adapt(save_base(tmp_path / "base", family, saved_as), tmp_path / "run", method, task)
    loralib_file(tmp_path / "theirs.bin", adapted)
    said = {"task": task, "labels": LABELS, "parts": parts, "allow_pickle": True}
    with pytest.raises(RecipeError, match="does not say alpha"):
        imported(tmp_path / "theirs.bin", adapted.base, tmp_path / "out", **said)
    if parts:
        with pytest.raises(RecipeError, match="does not say which"):
            imported(tmp_path / "theirs.bin", adapted.base, tmp_path / "out", **{**said, "parts": None, "alpha": 16.0})
    _, delta = imported(tmp_path / "theirs.bin", adapted.base, tmp_path / "out", **said, alpha=16.0)
    before, after = adapted.artifact.tensors(), open_artifact(tmp_path / "out").tensors()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert torch.equal(logits(delta.base.network), adapted.logits())


def test_an_alpha_that_is_none_is_refused(tmp_path):
    family, saved_as, task = BASES["bert"]
    adapted = adapt(save_base(tmp_path / "base", family, saved_as), tmp_path / "run", {"name": "lora", **QV}, task)
    loralib_file(tmp_path / "theirs.bin", adapted)
    with pytest.raises(ArtifactError, match="lora_alpha is 0"):
        imported(
            *(tmp_path / "theirs.bin", adapted.base, tmp_path / "out"),
            task=task,
            labels=LABELS,
            allow_pickle=True,
            alpha=0.0,
        )
