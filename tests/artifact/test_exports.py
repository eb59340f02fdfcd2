"""Hugging Face peft loads our artifacts as they are, and computes the same."""

import json
import warnings

import pytest
import torch
import transformers
from adapted_models import adapt, logits, save_base

from peftcli.artifact.exports import head_entries
from peftcli.data.tasks import network_of

peft = pytest.importorskip("peft")
LORA = {"name": "lora", "rank": 2, "target_modules": "all-linear"}


def load_with_peft(adapted, folder=None):
    """Return peft's model of an artifact, or of another folder; it must have nothing to remark."""
    auto, count = network_of(adapted.artifact.manifest.task)
    labels = {"num_labels": count} if count else {}
    network = getattr(transformers, auto).from_pretrained(adapted.base, **labels)
    network.config.pad_token_id = adapted.delta.base.network.config.pad_token_id
    folder = folder or adapted.artifact.folder
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = peft.PeftModel.from_pretrained(network, folder)
        again = loaded.load_adapter(str(folder), "default")
    assert [str(w.message) for w in caught if "is_gradient_checkpointing" not in str(w.message)] == []
    assert set(again.unexpected_keys) <= {"prompt_embeddings"}  # which peft loads by another way
    assert not again.missing_keys
    return loaded


BASES = {
    "bert": ("bert", "AutoModelForMaskedLM", "classification"),  # its pooler is new
    "t5": ("t5", "AutoModel", "classification"),
    "gpt2": ("gpt2", "AutoModelForCausalLM", "causal-lm"),
    "llama": ("llama", "AutoModelForCausalLM", "causal-lm"),
    "phi3": ("phi3", "AutoModelForCausalLM", "causal-lm"),
    "gpt_neox": ("gpt_neox", "AutoModelForCausalLM", "causal-lm"),
}
ALL = tuple(BASES)
QV = {"rank": 2, "target_modules": ["W_q", "W_v"]}
FORMS = {
    "lora": ({"name": "lora", **QV}, ALL),
    "rsLoRA": ({"name": "lora", **QV, "scaling": "rank_stabilised"}, ALL),
    "LoRA+": ({"name": "lora", **QV, "rate_ratio": 16.0}, ("bert", "gpt2")),
    "LoRA of one layer": ({"name": "lora", **QV, "layers": 1}, ALL),
    "dora": ({"name": "dora", **QV}, ALL),
    "ia3": ({"name": "ia3"}, ALL),
    "prompt": ({"name": "prompt", "prompt_length": 3, "placement": "start"}, ("bert", "gpt2", "llama", "phi3")),
    "pre_embed": (
        {"name": "pre_embed", "prefix_length": 3, "infix_length": 0},
        ("gpt2", "llama"),
    ),
    "prefix": ({"name": "prefix", "prefix_length": 3, "hidden": 5, "positions": "shifted"}, ("gpt2", "llama", "phi3")),
    "P-tuning v2": (
        {"name": "prefix", "prefix_length": 3, "reparameterise": False, "positions": "shifted"},
        ("gpt2", "llama", "gpt_neox"),
    ),
    "llama_adapter": ({"name": "llama_adapter", "prompt_length": 3, "gate": "scalar", "layers": "top:1"}, ("llama",)),
    "bitfit": ({"name": "bitfit"}, ("bert", "gpt2", "gpt_neox")),
    "bitfit of some": ({"name": "bitfit", "biases": ["W_q", "W_up", "ffn_norm"]}, ("bert", "gpt2", "gpt_neox")),
}


@pytest.mark.parametrize(("form", "base"), [(form, base) for form, (_, bases) in FORMS.items() for base in bases])
def test_peft_loads_every_form_without_a_remark_and_computes_the_same(tmp_path, form, base):
    family, saved_as, task = BASES[base]
    adapted = adapt(save_base(tmp_path / "base", family, saved_as), tmp_path / "run", FORMS[form][0], task)
    assert adapted.artifact.manifest.hf_peft in ("exact", "converted"), adapted.artifact.manifest.hf_peft_reason
    difference = (logits(load_with_peft(adapted)) - adapted.logits()).abs().max()
    print(f"{form:17s} {base:8s} {adapted.artifact.manifest.hf_peft:9s} max |difference| {difference:.1e}")
    assert difference <= 5e-6


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")
@pytest.mark.parametrize(
    ("family", "saved_as", "task"),
    [
        ("bert", "AutoModel", "classification"),
        ("bert", "AutoModelForMaskedLM", "classification"),  # its pooler is new
        ("roberta", "AutoModelForMaskedLM", "classification"),
        ("deberta-v2", "AutoModel", "classification"),
        ("bart", "AutoModel", "classification"),
        ("gpt2", "AutoModelForCausalLM", "causal-lm"),
        ("llama", "AutoModelForCausalLM", "causal-lm"),
        ("llama", "AutoModelForCausalLM", "classification"),
        ("bert", "AutoModelForMaskedLM", "regression"),
        ("bert", "AutoModel", "multi-label-classification"),
        *((family, "AutoModel", "token-classification") for family in ("bert", "distilbert", "gpt2", "llama")),
    ],
)
def test_peft_computes_what_the_adapted_model_does(tmp_path, family, saved_as, task):
    adapted = adapt(save_base(tmp_path / "base", family, saved_as), tmp_path / "run", LORA, task)
    assert adapted.artifact.manifest.hf_peft in ("exact", "converted")
    assert torch.allclose(logits(load_with_peft(adapted)), adapted.logits(), atol=1e-5)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")
def test_the_head_of_a_method_that_adds_to_the_input_is_found(tmp_path):
    base = save_base(tmp_path / "base", "bert", "AutoModelForMaskedLM")
    method = {"name": "prompt", "prompt_length": 3, "placement": "start"}
    adapted = adapt(base, tmp_path / "run", method, "classification")
    loaded = load_with_peft(adapted)
    head = dict(loaded.base_model.named_parameters())
    for address, parameter in adapted.delta.head.items():
        name = adapted.delta.base.name(address.removeprefix("head."))
        found = [p for n, p in head.items() if n.replace("modules_to_save.default.", "") == name]
        assert len(found) == 1
        assert torch.equal(found[0], parameter)


def test_a_module_to_save_is_named_by_its_whole_path(tmp_path):
    base = save_base(tmp_path / "base", "bert", "AutoModelForMaskedLM")
    adapted = adapt(base, tmp_path / "run", LORA, "classification")
    modules, tensors = head_entries(adapted.delta, "base_model.model.")
    assert modules == ["bert.pooler", "classifier"]
    assert sorted(tensors) == [
        "base_model.model.bert.pooler.dense.bias",
        "base_model.model.bert.pooler.dense.weight",
        "base_model.model.classifier.bias",
        "base_model.model.classifier.weight",
    ]
    config = json.loads((adapted.artifact.folder / "adapter_config.json").read_text())
    assert config["modules_to_save"] == modules
    assert config["task_type"] == "SEQ_CLS"


def test_a_method_without_such_a_form_says_so(tmp_path):
    base = save_base(tmp_path / "base", "bert")
    adapted = adapt(base, tmp_path / "run", {"name": "houlsby", "bottleneck": 2}, "classification")
    assert adapted.artifact.manifest.hf_peft == "none"
    assert "houlsby" in adapted.artifact.manifest.hf_peft_reason
    assert not (adapted.artifact.folder / "adapter_config.json").exists()


def test_a_stack_has_no_such_form(tmp_path):
    base = save_base(tmp_path / "base", "bert")
    adapted = adapt(base, tmp_path / "run", [LORA, {"name": "bitfit"}], "classification")
    assert "stack" in adapted.artifact.manifest.hf_peft_reason


def only(ends):
    """Leave a sparse change only where addresses end so."""

    def change(delta):
        state = {
            a: t for a, t in delta.state().items() if a.startswith("head.") or a.removesuffix(".indices").endswith(ends)
        }
        assert len(state) > len(delta.head)
        delta.load(state)

    return change


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # torch's word on peft's own way to add it
@pytest.mark.parametrize("name", ["lt_sft", "diff_pruning"])
@pytest.mark.parametrize("base", ["bert", "t5", "llama", "phi3"])
def test_a_sparse_change_of_linear_weights_is_shira(tmp_path, name, base):
    family, saved_as, task = BASES[base]
    folder = save_base(tmp_path / "base", family, saved_as)
    ends = ("W_o.weight", "W_down.weight")
    adapted = adapt(folder, tmp_path / "run", {"name": name, "entries": "3%"}, task, only(ends))
    assert adapted.artifact.manifest.hf_peft == "converted", adapted.artifact.manifest.hf_peft_reason
    assert json.loads((adapted.artifact.folder / "adapter_config.json").read_text())["peft_type"] == "SHIRA"
    difference = (logits(load_with_peft(adapted)) - adapted.logits()).abs().max()
    print(f"{name:12s} {base:8s} max |difference| {difference:.1e}")
    assert difference <= 1e-6


def test_a_sparse_change_of_anything_else_has_a_reason(tmp_path):
    for base, why in (("llama", "embed_tokens.weight, which changed too, is none"), ("gpt2", "wte.weight")):
        family, saved_as, task = BASES[base]
        folder = save_base(tmp_path / base, family, saved_as)
        adapted = adapt(folder, tmp_path / f"{base}-run", {"name": "lt_sft", "entries": "50%"}, task)
        assert adapted.artifact.manifest.hf_peft == "none"
        assert why in adapted.artifact.manifest.hf_peft_reason


@pytest.mark.parametrize(
    ("base", "method", "why"),
    [
        ("llama", {"name": "prefix", "prefix_length": 2, "hidden": 4}, "method.positions=shifted"),
        ("bert", {"name": "prompt", "prompt_length": 2}, "method.placement=start"),
        ("llama", {"name": "pre_embed", "prefix_length": 2}, "method.infix_length=0"),
        ("bert", {"name": "pre_embed", "prefix_length": 2}, "before the first token"),
        ("llama", {"name": "llama_adapter", "prompt_length": 2}, "method.gate=scalar"),
    ],
)
def test_a_form_that_peft_computes_otherwise_is_not_written_and_it_is_said_what_to_train(tmp_path, base, method, why):
    family, saved_as, task = BASES[base]
    adapted = adapt(save_base(tmp_path / "base", family, saved_as), tmp_path / "run", method, task)
    assert adapted.artifact.manifest.hf_peft == "none"
    assert why in adapted.artifact.manifest.hf_peft_reason
