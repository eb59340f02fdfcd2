"""LoRA against its formula in bare torch, and against Hugging Face peft."""

from __future__ import annotations

import pytest
import torch
from methods.oracle import beside_peft
from tiny import tiny_base, tiny_batch

from peftcli.blocks.low_rank import LowRank
from peftcli.delta.delta import attach
from peftcli.errors import MethodError
from peftcli.methods.lora import Lora
from peftcli.pipeline.progress import Silent
from peftcli.pipeline.rates import learning_rates
from peftcli.recipe.recipe import TrainingSection
from peftcli.training.optimizer import make_optimizer, scale_learning_rates

# In GPT-2 peft puts one A before all of q, k, v; each part here has its own, so projections that are not fused compare.
TARGETS = {
    "bert": (("W_q", "W_v"), ["query", "value"]),
    "gpt2": (("W_o", "W_up", "W_down"), ["c_proj", "c_fc"]),
    "llama": (("W_q", "W_v", "W_down"), ["q_proj", "v_proj", "down_proj"]),
    "t5": (("W_q", "W_v"), ["q", "v"]),
    "vit": (("W_q", "W_v"), ["q_proj", "v_proj"]),
}


def pair(family: str, **method):
    from peft import LoraConfig

    sites, modules = TARGETS[family]

    def match(delta, theirs):
        for _, block in delta.blocks():
            path = delta.base.path(block.site)
            for name in ("A", "B"):
                yield getattr(block, name), theirs[f"base_model.model.{path}.lora_{name}.default.weight"]

    settings = {"use_rslora": method.get("scaling") == "rank_stabilised", "fan_in_fan_out": family == "gpt2"}
    config = LoraConfig(r=3, lora_alpha=7, target_modules=modules, **settings)
    return beside_peft(family, Lora(rank=3, alpha=7.0, target_modules=sites, **method), config, match)


@pytest.mark.parametrize("scaling", ["alpha_over_rank", "rank_stabilised"])
@pytest.mark.parametrize("family", TARGETS)
def test_logits_gradients_and_twenty_steps_equal_those_of_peft(family, scaling):
    both = pair(family, scaling=scaling)
    assert len(both.twins) == sum(1 for n, p in both.theirs.named_parameters() if p.requires_grad)
    logits = both.largest_logit_difference()
    gradients = both.largest_gradient_difference()
    losses = both.largest_loss_difference()
    print(
        f"{family:6s} {scaling} max |difference| to peft: logits {logits:.1e}, gradients {gradients:.1e}, "
        f"20 losses {losses:.1e}"
    )
    assert logits <= 1e-5
    assert gradients <= 1e-5
    assert losses <= 1e-5


@torch.no_grad()
def test_the_weight_moves_by_alpha_over_rank_times_the_product():
    base = tiny_base("bert", "classification")
    weights = {s.path: base.parameter(s).clone() for s in base.sites(("W_q",))}
    delta = attach((Lora(rank=4, alpha=6.0, target_modules=("W_q",)),), base, seed=0)
    batch = tiny_batch("bert")
    for _, block in delta.blocks():
        block.B.normal_()
    adapted = base.network(**batch).logits
    plain = tiny_base("bert", "classification")
    for (_, block), (path, W) in zip(reversed(delta.blocks()), weights.items(), strict=True):
        plain.network.get_submodule(f"bert.{path}").weight.copy_(W + 6.0 / 4 * block.B @ block.A)
    torch.testing.assert_close(plain.network(**batch).logits, adapted, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "bloom", "phi3", "falcon", "falcon_new", "falcon_mha"])
def test_a_part_of_a_fused_projection_moves_alone(family):
    base = tiny_base(family, "causal-lm")
    site = base.sites(("W_v",))[0]
    module = base.module(site)
    x = torch.randn(2, 3, site.d_in)
    before = module(x)
    delta = attach((Lora(rank=2, target_modules=("W_v",), layers=0),), base, seed=0)
    (_, block), *_ = delta.blocks()
    block.B.normal_()
    changed = (block(x) - before).abs().sum((0, 1)) > 0
    rows = {r for start, stop in site.rows for r in range(start, stop)}
    assert {int(i) for i in changed.nonzero()} == rows


@torch.no_grad()
def test_dropout_acts_on_the_branch_alone_and_only_in_training():
    site = tiny_base("bert").sites(("W_q",))[0]
    linear = torch.nn.Linear(16, 16)
    block = LowRank(linear, site, rank=2, scale=1.0, dropout=0.5)
    block.A.normal_()
    block.B.normal_()
    x = torch.zeros(1, 16)
    x[0, 0] = 1.0
    branch = block.B @ block.A @ x[0]
    torch.testing.assert_close(block.eval()(x)[0], linear(x)[0] + branch)
    seen = {round(float((block.train()(x)[0] - linear(x)[0])[0] / branch[0])) for _ in range(50)}
    assert seen == {0, 2}


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_lora_plus_has_the_rates_of_peft_and_its_curve(family):
    """peft's optimizer beside ours over the same random delta: A at the run's rate, B at 16 times as much."""
    from peft.optimizers import create_loraplus_optimizer

    both = pair(family, rate_ratio=16.0)
    section = TrainingSection(learning_rate=1e-3)
    rates = learning_rates(section, both.delta, Silent())
    ours = make_optimizer(both.delta.parameters, rates, weight_decay=0.1)
    scale_learning_rates(ours, 1.0)
    theirs = create_loraplus_optimizer(
        both.theirs, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16.0, loraplus_weight_decay=0.1
    )
    rate = [{id(p): g["lr"] for g in o.param_groups for p in g["params"]} for o in (ours, theirs)]
    assert all(rate[0][id(a)] == rate[1][id(b)] for a, b in both.twins)
    assert sorted(set(rate[0].values())) == [1e-3, 16e-3]
    curves = ([], [])
    for _ in range(20):
        for out, optimizer, losses in zip(both.logits(), (ours, theirs), curves, strict=True):
            optimizer.zero_grad()
            loss = out.float().square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    difference = max(abs(a - b) for a, b in zip(*curves, strict=True))
    print(f"{family:6s} LoRA+ 20 losses {curves[0][0]:.3f} to {curves[0][-1]:.3f}, max |difference| {difference:.1e}")
    assert curves[0][-1] < curves[0][0]
    assert difference <= 1e-5


def test_the_head_keeps_its_own_rate_under_lora_plus():
    delta = attach((Lora(rank=2, rate_ratio=16.0),), tiny_base("bert", "classification"), seed=0)
    rates = learning_rates(TrainingSection(learning_rate=1e-4, head_learning_rate=1e-3), delta, Silent())
    assert {rates[a] for a in delta.head} == {1e-3}
    assert {rates[a] for a in delta.parameters if a.endswith(".B")} == {16 * 1e-4}
    assert {rates[a] for a in delta.parameters if a.endswith(".A")} == {1e-4}


@torch.no_grad()
@pytest.mark.parametrize(("scaling", "scale"), [("alpha_over_rank", 1.5), ("rank_stabilised", 3.0)])
def test_the_joined_form_for_peft_computes_every_part_of_a_fused_projection(scaling, scale):
    method = Lora(rank=4, alpha=6.0, scaling=scaling)
    delta = attach((method,), tiny_base("gpt2", "causal-lm"), seed=0)
    for _, block in delta.blocks():
        block.B.normal_()
    layout = method.peft_layout(delta)
    path = "transformer.h.0.attn.c_attn"
    rank, alpha = layout.config["rank_pattern"][path], layout.config["alpha_pattern"][path]
    A, B = (layout.tensors[f"base_model.model.{path}.lora_{n}.weight"] for n in "AB")
    theirs = alpha / (rank**0.5 if layout.config["use_rslora"] else rank)
    parts = {b.site.name: b for _, b in delta.blocks() if b.site.layer == 0}
    ours = torch.zeros(48, 16)
    ours[:16] = scale * parts["W_q"].B @ parts["W_q"].A
    ours[32:] = scale * parts["W_v"].B @ parts["W_v"].A
    assert method.scale == scale
    torch.testing.assert_close(theirs * B @ A, ours)


def test_a_rank_above_the_narrowest_matrix_is_refused():
    with pytest.raises(MethodError, match="rank is 17"):
        attach((Lora(rank=17),), tiny_base("bert"), seed=0)
