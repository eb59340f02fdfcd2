"""DoRA against its formula in bare torch, against Hugging Face peft, and merged."""

from __future__ import annotations

import pytest
import torch
import transformers
from artifact.adapted_models import adapt, logits, reopened, save_base
from methods.oracle import beside_peft
from tiny import DECODERS, tiny_base, tiny_batch
from torch.nn import functional as F

from peftcli.artifact.merging import MergeSettings, stream
from peftcli.base.anatomy import Anatomy
from peftcli.blocks.decomposed import DecomposedLowRank
from peftcli.delta.delta import attach
from peftcli.errors import MethodError
from peftcli.methods.dora import Dora
from peftcli.methods.lora import Lora

# In GPT-2 peft puts one A before all of q, k, v; each part here has its own, so projections that are not fused compare.
TARGETS = {
    "bert": (("W_q", "W_v", "W_down"), ["query", "value", "output.dense"]),
    "gpt2": (("W_o", "W_up", "W_down"), ["c_proj", "c_fc"]),
    "llama": (("W_q", "W_v", "W_down"), ["q_proj", "v_proj", "down_proj"]),
    "t5": (("W_q", "W_v"), ["q", "v"]),
    "vit": (("W_q", "W_v"), ["q_proj", "v_proj"]),
}
ROBERTA = {"model_type": "roberta", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
FUSED = ("gpt2", "gpt_neox", "bloom", "phi3", "falcon", "falcon_new", "falcon_mha")


def pair(family: str):
    from peft import LoraConfig

    sites, modules = TARGETS[family]
    if family == "bert":  # the end of a path, which in BERT the attention's own output.dense has too
        modules = r".*(query|value|\d\.output\.dense)"

    def match(delta, theirs):
        for _, block in delta.blocks():
            path = f"base_model.model.{delta.base.path(block.site)}"
            yield block.A, theirs[f"{path}.lora_A.default.weight"]
            yield block.B, theirs[f"{path}.lora_B.default.weight"]
            yield block.magnitude, theirs[f"{path}.lora_magnitude_vector.default.weight"]

    config = LoraConfig(r=3, lora_alpha=7, target_modules=modules, fan_in_fan_out=family == "gpt2", use_dora=True)
    return beside_peft(family, Dora(rank=3, alpha=7.0, target_modules=sites), config, match)


@pytest.mark.parametrize("family", TARGETS)
def test_logits_gradients_and_twenty_steps_equal_those_of_peft(family):
    both = pair(family)
    assert len(both.twins) == sum(1 for n, p in both.theirs.named_parameters() if p.requires_grad)
    with torch.no_grad():  # lengths are positive
        for ours, theirs in both.twins:
            if ours.ndim == 1:
                theirs.copy_(ours.abs_().add_(0.5))
    found = {
        "logits": both.largest_logit_difference(),
        "gradients": both.largest_gradient_difference(),
        "20 losses": both.largest_loss_difference(),
    }
    print(f"{family:6s} max |difference| to peft: " + ", ".join(f"{n} {d:.1e}" for n, d in found.items()))
    assert max(found.values()) <= 1e-5


@torch.no_grad()
def randomised(family: str, **settings):
    task = "causal-lm" if family in DECODERS else "classification"
    delta = attach((Dora(rank=3, **settings),), tiny_base(family, task), seed=0)
    for _, block in delta.blocks():
        block.B.normal_()
        block.magnitude.uniform_(0.5, 2.0)
    return delta


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", *FUSED])
def test_every_row_of_the_weight_gets_its_length(family):
    """W' = m V / ||V|| with V = W + s B A, built row by row and put into a plain network."""
    delta = randomised(family, alpha=6.0)
    plain = tiny_base(family, "causal-lm" if family in DECODERS else "classification")
    for _, block in delta.blocks():
        weight = plain.parameter(block.site).data
        rows = weight.T if block.site.transposed else weight
        moved = 6.0 / 3 * block.B @ block.A
        places = [r for a, b in block.site.rows or ((0, len(rows)),) for r in range(a, b)]
        for i, r in enumerate(places):
            v = rows[r] + moved[i]
            rows[r] = block.magnitude[i] * v / v.square().sum().sqrt()
    batch = tiny_batch(family)
    adapted = delta.base.network(**batch).logits
    torch.testing.assert_close(plain.network(**batch).logits, adapted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "phi3"])
def test_before_training_it_is_the_base_exactly(family):
    task = "causal-lm" if family in DECODERS else "classification"
    before = tiny_base(family, task).network(**tiny_batch(family)).logits
    delta = attach((Dora(rank=2, target_modules="all-linear"),), tiny_base(family, task), seed=0)
    assert torch.equal(delta.base.network(**tiny_batch(family)).logits, before)


def test_dropout_reaches_both_terms_of_the_correction():
    """y = W x + b + (m / ||V|| - 1) W drop(x) + (m / ||V||) s B A drop(x)."""
    site = tiny_base("bert").sites(("W_q",))[0]
    linear = torch.nn.Linear(16, 16)
    block = DecomposedLowRank(linear, site, rank=2, scale=1.5, dropout=0.5)
    block.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        block.B.normal_()
        block.magnitude.uniform_(0.5, 2.0)
    x = torch.randn(5, 16)
    torch.manual_seed(3)
    y = block.train()(x)
    torch.manual_seed(3)
    dropped = F.dropout(x, 0.5)
    assert not torch.equal(dropped, x)
    W, A, B = linear.weight, block.A, block.B
    factor = block.magnitude / (W + 1.5 * B @ A).square().sum(1).sqrt()
    expected = linear(x) + (factor - 1) * (dropped @ W.T) + factor * 1.5 * (dropped @ A.T @ B.T)
    torch.testing.assert_close(y, expected)


def test_no_gradient_goes_through_the_norm():
    site = tiny_base("bert").sites(("W_q",))[0]
    block = DecomposedLowRank(torch.nn.Linear(16, 16).requires_grad_(False), site, rank=2, scale=1.0, dropout=0.0)
    block.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        block.B.normal_()
    x = torch.randn(5, 16)
    block(x).square().sum().backward()
    A, B = (t.detach().clone().requires_grad_() for t in (block.A, block.B))
    moved = block.wrapped.weight + B @ A
    constant = moved.detach().square().sum(1, keepdim=True).sqrt()
    weight = block.magnitude.detach()[:, None] * moved / constant
    F.linear(x, weight, block.wrapped.bias).square().sum().backward()
    torch.testing.assert_close(block.B.grad, B.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(block.A.grad, A.grad, rtol=1e-4, atol=1e-4)


def test_a_row_of_zeros_stays_finite():
    base = tiny_base("bert", "classification")
    with torch.no_grad():
        for site in base.sites(("W_q",)):
            base.parameter(site)[3] = 0.0
    delta = attach((Dora(rank=2),), base, seed=0)
    optimizer = torch.optim.AdamW(delta.trained().values(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        base.network(**tiny_batch("bert")).logits.square().sum().backward()
        optimizer.step()
    assert all(torch.isfinite(p).all() for p in delta.trained().values())


MERGED = [
    ("bert", "AutoModel", "classification"),
    ("bart", "AutoModel", "classification"),
    ("deberta-v2", "AutoModel", "classification"),
    ("gpt2", "AutoModelForCausalLM", "causal-lm"),
    ("gpt_neox", "AutoModelForCausalLM", "causal-lm"),
    ("llama", "AutoModelForCausalLM", "causal-lm"),
    ("phi3", "AutoModelForCausalLM", "causal-lm"),
]
EVERYWHERE = {"name": "dora", "rank": 2, "target_modules": "all-linear"}
STACKS = [[{"name": "full"}, EVERYWHERE], [EVERYWHERE, {"name": "bitfit", "biases": ["W_q", "W_v", "W_up"]}]]


@pytest.mark.parametrize("rows", [3, 512])
@pytest.mark.parametrize(("family", "saved_as", "task"), MERGED)
def test_a_merged_model_computes_the_same_however_its_rows_are_cut(tmp_path, monkeypatch, rows, family, saved_as, task):
    """GPT-2 stores its weights transposed: a block of rows holds a few inputs of every output."""
    monkeypatch.setattr("peftcli.artifact.row_blocks.MOST_ROWS", rows)
    base = save_base(tmp_path / "base", family, saved_as)
    adapted = adapt(base, tmp_path / "run", EVERYWHERE, task)
    stream(adapted.artifact, base, tmp_path / "merged", MergeSettings())
    assert torch.allclose(logits(reopened(tmp_path / "merged", task)), adapted.logits(), atol=1e-5)


@pytest.mark.parametrize("stack", STACKS, ids=["on weights that train", "beside biases that train"])
def test_a_stack_is_merged_in_its_order(tmp_path, stack):
    """The norm is that of the weight as it was trained, and the biases of GPT-2's fused parts are not scaled."""
    base = save_base(tmp_path / "base", "gpt2", "AutoModelForCausalLM")
    adapted = adapt(base, tmp_path / "run", stack, "causal-lm")
    stream(adapted.artifact, base, tmp_path / "merged", MergeSettings())
    assert torch.allclose(logits(reopened(tmp_path / "merged", "causal-lm")), adapted.logits(), atol=1e-5)


@pytest.mark.parametrize(("family", "form"), [("bert", "exact"), ("llama", "exact"), ("gpt2", "converted")])
def test_peft_loads_the_artifact_and_computes_the_same(tmp_path, family, form):
    """The parts of GPT-2's fused projection join: beside them, rows keep the length they have."""
    import peft

    task = "causal-lm" if family in DECODERS else "classification"
    base = save_base(tmp_path / "base", family, "AutoModelForCausalLM" if family in DECODERS else "AutoModel")
    method = {"name": "dora", "rank": 2, "target_modules": ["W_q", "W_v", "W_down"], "scaling": "rank_stabilised"}
    adapted = adapt(base, tmp_path / "run", method, task)
    assert adapted.artifact.manifest.hf_peft == form
    auto = transformers.AutoModelForCausalLM if family in DECODERS else transformers.AutoModelForSequenceClassification
    network = auto.from_pretrained(base, **({} if family in DECODERS else {"num_labels": 3}))
    loaded = peft.PeftModel.from_pretrained(network, adapted.artifact.folder)
    assert torch.allclose(logits(loaded), adapted.logits(), atol=1e-5)


@pytest.mark.parametrize("stack", [(Dora(rank=2), Lora(rank=2)), (Lora(rank=2), Dora(rank=2))])
def test_another_change_of_the_same_matrix_is_refused(stack):
    with pytest.raises(MethodError, match="needs the weight for itself"):
        attach(stack, tiny_base("bert"), seed=0)


def test_a_magnitude_costs_one_number_per_row():
    anatomy = Anatomy.of(ROBERTA)
    assert Dora(rank=8).count(anatomy) - Lora(rank=8).count(anatomy) == 18_432
