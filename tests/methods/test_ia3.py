"""(IA)3 against its formula in bare torch, against Hugging Face peft, and merged."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
import transformers
from artifact.adapted_models import adapt, logits, reopened, save_base
from methods.oracle import beside_peft
from tiny import DECODERS, tiny_base, tiny_batch

from peftcli.artifact.merging import MergeSettings, stream
from peftcli.base.anatomy import Anatomy
from peftcli.delta.delta import attach
from peftcli.methods.ia3 import Ia3
from peftcli.methods.lora import Lora

# BERT's attention ends in output.dense too, so the module of the FFN is found by the layer's number before it.
TARGETS = {
    "bert": (r".*(key|value|\d\.output\.dense)", r".*\d\.output\.dense"),
    "llama": (["k_proj", "v_proj", "down_proj"], ["down_proj"]),
    "qwen3": (["k_proj", "v_proj", "down_proj"], ["down_proj"]),
    "t5": (["k", "v", "wo"], ["wo"]),
    "bart": (["k_proj", "v_proj", "fc2"], ["fc2"]),
    "vit": (["k_proj", "v_proj", "mlp.fc2"], ["mlp.fc2"]),
}
BERT = {"model_type": "bert", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}


def task_of(family: str) -> str:
    return "causal-lm" if family in DECODERS else "classification"


@pytest.mark.parametrize("family", TARGETS)
def test_logits_gradients_and_twenty_steps_equal_those_of_peft(family):
    from peft import IA3Config

    def match(delta, theirs):
        for _, block in delta.blocks():
            yield block.scale, theirs[f"base_model.model.{delta.base.path(block.site)}.ia3_l.default"]

    targets, feedforward = TARGETS[family]
    both = beside_peft(family, Ia3(), IA3Config(target_modules=targets, feedforward_modules=feedforward), match)
    assert len(both.twins) == sum(1 for n, p in both.theirs.named_parameters() if p.requires_grad)
    found = {"logits": both.largest_logit_difference()}
    for out in both.logits():
        out.pow(2).mean().backward()
    found["gradients"] = max(float((a.grad - b.grad.flatten()).abs().max()) for a, b in both.twins)
    for tensor in (t for twins in both.twins for t in twins):
        tensor.grad = None
    found["20 losses"] = curve_difference(both)
    print(f"{family:6s} max |difference| to peft: " + ", ".join(f"{n} {d:.1e}" for n, d in found.items()))
    assert found["logits"] == 0.0
    assert max(found.values()) <= 1e-6


def curve_difference(both) -> float:
    """Take 20 AdamW steps with each and compare the losses; vectors do not decay."""
    curves = ([], [])
    optimizers = [torch.optim.AdamW([t[side] for t in both.twins], lr=1e-2, weight_decay=0.0) for side in (0, 1)]
    for _ in range(20):
        for out, optimizer, losses in zip(both.logits(), optimizers, curves, strict=True):
            optimizer.zero_grad()
            loss = out.square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert curves[0][-1] < curves[0][0]
    return max(abs(a - b) for a, b in zip(*curves, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "gpt2", "gpt_neox", "falcon_new", "phi3", "t5", "opt"])
def test_keys_values_and_the_inside_of_the_ffn_are_scaled(family):
    """Scaling the rows of W_k and W_v with their biases and the columns of W_down is the same function."""
    delta = attach((Ia3(),), tiny_base(family, task_of(family)), seed=0)
    plain = tiny_base(family, task_of(family))
    for _, block in delta.blocks():
        block.scale.uniform_(0.3, 2.0)
        weight, site = plain.parameter(block.site).data, block.site
        outputs_first = weight.T if site.transposed else weight
        if site.name == "W_down":
            outputs_first *= block.scale
            continue
        places = [r for a, b in site.rows or ((0, len(outputs_first)),) for r in range(a, b)]
        outputs_first[places] *= block.scale[:, None]
        if site.bias:
            plain.parameter(site, "bias").data[places] *= block.scale
    batch = tiny_batch(family)
    adapted = delta.base.network(**batch).logits
    torch.testing.assert_close(plain.network(**batch).logits, adapted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5"])
def test_before_training_it_is_the_base_exactly(family):
    before = tiny_base(family, task_of(family)).network(**tiny_batch(family)).logits
    delta = attach((Ia3(),), tiny_base(family, task_of(family)), seed=0)
    assert torch.equal(delta.base.network(**tiny_batch(family)).logits, before)


def test_an_encoder_decoder_has_vectors_in_both_stacks_and_across():
    delta = attach((Ia3(),), tiny_base("t5"), seed=0)
    where = [(b.site.stack, b.site.cross) for _, b in delta.blocks()]
    assert where.count(("encoder", False)) == 2 * 3
    assert where.count(("decoder", False)) == 3 * 3
    assert where.count(("decoder", True)) == 3 * 2


@torch.no_grad()
@pytest.mark.parametrize("order", list(permutations((0, 1))))
def test_beside_lora_the_branch_is_scaled_too(order):
    """y = l * (W x + b + s B A x), whichever of the two is listed first."""
    methods = (Lora(rank=2, alpha=3.0, target_modules=("W_v",), layers=0), Ia3(target_modules=("W_v",), layers=0))
    base = tiny_base("bert")
    linear = base.module(base.sites(("W_v",))[0])
    delta = attach(tuple(methods[i] for i in order), base, seed=0)
    blocks = {b.address.partition(".")[0]: b for _, b in delta.blocks()}
    blocks["lora"].B.normal_()
    blocks["ia3"].scale.normal_()
    x = torch.randn(4, 16)
    expected = blocks["ia3"].scale * (linear(x) + 1.5 * x @ blocks["lora"].A.T @ blocks["lora"].B.T)
    torch.testing.assert_close(base.module(base.sites(("W_v",))[0])(x), expected)


MERGED = [
    ("bert", "AutoModel", "classification"),
    ("bart", "AutoModel", "classification"),
    ("deberta-v2", "AutoModel", "classification"),
    ("gpt2", "AutoModelForCausalLM", "causal-lm"),
    ("gpt_neox", "AutoModelForCausalLM", "causal-lm"),
    ("llama", "AutoModelForCausalLM", "causal-lm"),
    ("phi3", "AutoModelForCausalLM", "causal-lm"),
]
STACK = [{"name": "ia3"}, {"name": "lora", "rank": 2, "target_modules": "all-linear"}]


@pytest.mark.parametrize("method", [{"name": "ia3"}, STACK], ids=["alone", "beside lora"])
@pytest.mark.parametrize(("family", "saved_as", "task"), MERGED)
def test_a_merged_model_computes_the_same_however_its_rows_are_cut(
    tmp_path, monkeypatch, method, family, saved_as, task
):
    monkeypatch.setattr("peftcli.artifact.row_blocks.MOST_ROWS", 3)
    monkeypatch.setattr("peftcli.artifact.row_blocks.BLOCK", 100)
    base = save_base(tmp_path / "base", family, saved_as)
    adapted = adapt(base, tmp_path / "run", method, task)
    stream(adapted.artifact, base, tmp_path / "merged", MergeSettings())
    assert torch.allclose(logits(reopened(tmp_path / "merged", task)), adapted.logits(), atol=1e-5)


@pytest.mark.parametrize(
    ("family", "form"), [("bert", "exact"), ("llama", "exact"), ("bart", "exact"), ("gpt2", "converted")]
)
def test_peft_loads_the_artifact_and_computes_the_same(tmp_path, family, form):
    """Of GPT-2's fused projection peft scales every output: those of W_q by one."""
    import peft

    task = task_of(family)
    base = save_base(tmp_path / "base", family, "AutoModelForCausalLM" if family in DECODERS else "AutoModel")
    adapted = adapt(base, tmp_path / "run", {"name": "ia3"}, task)
    assert adapted.artifact.manifest.hf_peft == form
    auto = transformers.AutoModelForCausalLM if family in DECODERS else transformers.AutoModelForSequenceClassification
    network = auto.from_pretrained(base, **({} if family in DECODERS else {"num_labels": 3}))
    loaded = peft.PeftModel.from_pretrained(network, adapted.artifact.folder)
    assert torch.allclose(logits(loaded), adapted.logits(), atol=1e-5)


def test_the_count_is_that_of_keys_values_and_the_inside_of_the_ffn():
    assert Ia3().count(Anatomy.of(BERT)) == 12 * (2 * 768 + 3072)
