import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import FAMILIES, LABELS, tasks, tiny_base, tiny_config
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from peftcli.base.anatomy import Anatomy
from peftcli.base.architectures import ARCHITECTURES
from peftcli.base.base_model import BaseModel
from peftcli.errors import BaseModelError, ResourceError

CASES = [(family, task) for family in FAMILIES for task in tasks(family)]
GPT3 = {"model_type": "gpt2", "n_layer": 96, "n_embd": 12288, "n_head": 96, "n_positions": 2048}


@pytest.mark.parametrize(("family", "task"), CASES)
def test_the_tensors_are_exactly_those_of_the_network(family, task):
    base = tiny_base(family, task)
    described = (*base.anatomy.tensors, *base.anatomy.head_tensors)
    names = {base.name(t.address): t.shape for t in described}
    assert names == {n: tuple(p.shape) for n, p in base.network.named_parameters()}


@pytest.mark.parametrize(("family", "task"), CASES)
def test_the_size_is_that_of_the_network(family, task):
    base = tiny_base(family, task)
    assert base.anatomy.size == base.size == sum(t.size for t in base.anatomy.tensors)
    assert base.anatomy.head_size == base.head_size


@pytest.mark.parametrize("family", [f for f in FAMILIES if "classification" in tasks(f)])
def test_the_head_tensors_are_the_networks_head(family):
    base = tiny_base(family, "classification")
    assert base.head
    assert {t.path.removeprefix("^") for t in base.anatomy.head_tensors} == base.head


@pytest.mark.parametrize(("family", "task"), CASES)
def test_addresses_are_unique_and_lead_back(family, task):
    anatomy = Anatomy.of(tiny_config(family), task=task, labels=LABELS)
    paths = [t.path for t in (*anatomy.tensors, *anatomy.head_tensors)]
    addresses = [anatomy.address(p) for p in paths]
    assert len(set(addresses)) == len(paths)
    assert [anatomy.path(a) for a in addresses] == paths


@pytest.mark.parametrize("family", sorted(set(ARCHITECTURES) - {"clip"}))
def test_a_config_may_leave_out_what_transformers_fills_in(family):
    full = AutoConfig.for_model(family).to_dict()
    assert Anatomy.of({"model_type": family}).values == Anatomy.of(full).values


VARIANTS = [
    ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    ("llama", {"num_key_value_heads": None, "head_dim": 8}),
    ("qwen3", {"attention_bias": True, "tie_word_embeddings": True}),
    ("gemma2", {"attention_bias": True, "tie_word_embeddings": False}),
    ("gpt2", {"n_inner": 20, "tie_word_embeddings": False}),
    ("gpt_neo", {"intermediate_size": None}),
    ("gpt_neox", {"attention_bias": False, "tie_word_embeddings": True}),
    ("opt", {"word_embed_proj_dim": 8, "do_layer_norm_before": False}),
    ("opt", {"enable_bias": False, "layer_norm_elementwise_affine": False}),
    ("opt", {"_remove_final_layer_norm": True}),
    ("falcon", {"num_ln_in_parallel_attn": 2}),
    ("falcon", {"parallel_attn": False, "bias": True}),
    ("falcon_new", {"num_ln_in_parallel_attn": 1, "ffn_hidden_size": None}),
    ("electra", {"embedding_size": 16}),
    ("deberta-v2", {"share_att_key": False, "norm_rel_ebd": "none"}),
    ("deberta-v2", {"share_att_key": False, "pos_att_type": "c2p"}),
    ("deberta-v2", {"position_buckets": -1, "max_relative_positions": 5, "conv_kernel_size": 3, "conv_groups": 2}),
    ("deberta-v2", {"relative_attention": False, "position_biased_input": True, "type_vocab_size": 2}),
    ("deberta-v2", {"embedding_size": 8, "position_biased_input": True}),
    ("t5", {"num_decoder_layers": None, "feed_forward_proj": "gated-silu"}),
    ("vit", {"image_size": [8, 12], "patch_size": [4, 2], "qkv_bias": False}),
    ("bert", {"type_vocab_size": 5}),
]


@pytest.mark.parametrize(("family", "change"), VARIANTS)
def test_what_a_config_switches_is_followed(family, change):
    config = tiny_config(family) | change
    task = "causal-lm" if "causal-lm" in tasks(family) else None
    auto = AutoModelForCausalLM if task else AutoModel
    settings = dict(config)
    with torch.device("meta"):
        network = auto.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
    anatomy = Anatomy.of(config, task=task)
    base = BaseModel(network, anatomy)  # refuses a network that is not as described
    assert base.size == anatomy.size
    names = [n for n in ("W_q", "W_k", "W_v", "W_o", "W_up", "W_down") if n in anatomy.site_names]
    for site in base.sites(names):
        stored = base.parameter(site).shape
        assert stored[0 if site.transposed else 1] == site.d_in


@pytest.mark.parametrize(("family", "auto"), [("bert", AutoModelForSequenceClassification), ("gpt2", AutoModel)])
def test_a_network_of_another_shape_is_refused(family, auto):
    settings = tiny_config(family)
    with torch.device("meta"):
        network = auto.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
    other = tiny_config(family) | {"vocab_size": 62}
    with pytest.raises(BaseModelError, match="not as its config says"):
        BaseModel(network, Anatomy.of(other, task="classification" if family == "bert" else None, labels=2))


def test_gpt3_is_counted_in_closed_form():
    d, n_layer = 12288, 96
    size = 12 * d**2 * n_layer + 13 * d * n_layer + 2 * d + (50257 + 2048) * d
    assert Anatomy.of(GPT3, task="causal-lm").size == size
    assert round(size / 1e6, 1) == 174604.3


PUBLISHED = [
    ({"model_type": "bert"}, None, 109_482_240),
    ({"model_type": "roberta", "type_vocab_size": 1, "max_position_embeddings": 514}, None, 124_645_632),
    ({"model_type": "gpt2", "n_embd": 1024, "n_layer": 24, "n_head": 16}, "causal-lm", 354_823_168),
    ({"model_type": "t5", "d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12}, None, 222_903_552),
    ({"model_type": "llama"}, "causal-lm", 6_738_415_616),
    ({"model_type": "mistral"}, "causal-lm", 7_241_732_096),
    ({"model_type": "bloom", "hidden_size": 1024, "n_layer": 24, "n_head": 16}, "causal-lm", 559_214_592),
    ({"model_type": "falcon"}, "causal-lm", 6_921_720_704),
    ({"model_type": "opt"}, "causal-lm", 125_239_296),
    ({"model_type": "distilbert"}, None, 66_362_880),
    ({"model_type": "phi3"}, "causal-lm", 3_821_079_552),
    ({"model_type": "gemma2"}, "causal-lm", 2_614_341_888),
    ({"model_type": "bart"}, None, 406_291_456),
]


@pytest.mark.parametrize(("config", "task", "size"), PUBLISHED)
def test_published_models_have_their_published_sizes(config, task, size):
    assert Anatomy.of(config, task=task).size == size


def test_gpt3_takes_milliseconds():
    start = time.perf_counter()
    anatomy = Anatomy.of(GPT3)
    assert len(anatomy.tensors) == 96 * 12 + 4
    assert len(anatomy.sites(["W_q", "W_v"])) == 192
    assert time.perf_counter() - start < 0.3


def test_the_anatomy_imports_neither_torch_nor_transformers():
    heavy = "{'torch', 'numpy', 'transformers', 'huggingface_hub'}"
    code = f"import sys, peftcli.base.source, peftcli.base.checkpoint_names; print({heavy} & set(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert found.stdout.strip() == "set()"


def test_minilm_as_a_classifier_has_its_known_size():
    config = {"model_type": "bert", "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6}
    anatomy = Anatomy.of(config, task="classification", labels=4)
    assert anatomy.size == 22_713_216
    assert anatomy.head_size == 384 * 4 + 4


def test_stories260k_has_its_known_size():
    shared = Path(os.environ.get("PEFTCLI_SHARED", Path(__file__).parents[3] / "shared"))
    file = shared / "models/stories260k/config.json"
    if not file.exists():
        pytest.skip("the model stories260k is not here")
    assert Anatomy.of(json.loads(file.read_text()), task="causal-lm").size == 260_032


@pytest.mark.parametrize(
    ("family", "head"),
    [
        ("bert", 16 * 3 + 3),
        ("roberta", 16**2 + 16 + 16 * 3 + 3),
        ("distilbert", 16**2 + 16 + 16 * 3 + 3),
        ("deberta-v2", 16**2 + 16 + 16 * 3 + 3),
        ("gpt2", 16 * 3),
        ("bart", 16**2 + 16 + 16 * 3 + 3),
    ],
)
def test_a_head_has_its_published_form(family, head):
    assert Anatomy.of(tiny_config(family), task="classification", labels=3).head_size == head


def test_a_generator_has_no_new_head():
    assert Anatomy.of(tiny_config("llama"), task="causal-lm").head_tensors == ()


def test_what_callers_ask_of_an_anatomy():
    anatomy = Anatomy.of(tiny_config("electra"))
    assert (anatomy.family, anatomy.arch, anatomy.width, anatomy.embedding_width) == ("electra", "encoder", 16, 8)
    assert (anatomy.vocabulary, anatomy.layers, anatomy.max_positions) == (61, {"encoder": 2}, 40)
    assert (anatomy.attention_interface, anatomy.causal, anatomy.pre_norm) == (True, False, False)


@pytest.mark.parametrize(("family", "positions"), [("roberta", 38), ("t5", None), ("bloom", None), ("opt", 40)])
def test_the_longest_input_is_in_tokens(family, positions):
    assert Anatomy.of(tiny_config(family)).max_positions == positions


def test_an_unknown_family_is_named_with_a_suggestion():
    with pytest.raises(BaseModelError, match="model type 'lama' is not known") as caught:
        Anatomy.of({"model_type": "lama"})
    assert "Did you mean 'llama'?" in caught.value.problems[0].hint


def test_attention_over_another_model_is_refused():
    with pytest.raises(BaseModelError, match="another model's output"):
        Anatomy.of(tiny_config("gpt2") | {"add_cross_attention": True})


def test_a_config_without_a_family_is_refused():
    with pytest.raises(BaseModelError, match="names no model_type"):
        Anatomy.of({"hidden_size": 16})


@pytest.mark.parametrize("value", ["sixteen", 0, -1, 16.0, [], {}])
def test_a_width_that_is_no_number_is_named(value):
    with pytest.raises(BaseModelError, match="hidden_size is"):
        Anatomy.of({"model_type": "bert", "hidden_size": value})


def test_an_absurd_config_is_refused_with_its_numbers():
    with pytest.raises(ResourceError, match="1,000,000,000 layers"):
        Anatomy.of({"model_type": "bert", "num_hidden_layers": 10**9})


@pytest.mark.parametrize("family", ["bert", "t5", "vit"])
def test_only_decoders_do_causal_lm(family):
    with pytest.raises(BaseModelError, match="cannot do causal-lm"):
        Anatomy.of(tiny_config(family), task="causal-lm")


def test_the_addresses_are_the_fields_own_names():
    gpt2, t5 = Anatomy.of(tiny_config("gpt2")), Anatomy.of(tiny_config("t5"))
    assert gpt2.address("h.1.attn.c_proj.bias") == "layers.1.W_o.bias"
    assert gpt2.address("h.1.attn.c_attn.weight") == "layers.1.attn.c_attn.weight"
    assert gpt2.address("wte.weight") == "embeddings.weight"
    assert t5.address("decoder.block.2.layer.1.EncDecAttention.q.weight") == "decoder.layers.2.cross.W_q.weight"
    assert t5.address("encoder.block.0.layer.1.layer_norm.weight") == "encoder.layers.0.ffn_norm.weight"
