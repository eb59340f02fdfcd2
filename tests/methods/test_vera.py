"""VeRA against its formula written out, against Hugging Face peft, and its published counts."""

from __future__ import annotations

import json

import pytest
import torch
from methods.oracle import beside_peft
from tiny import tasks, tiny_base, tiny_batch

from peftcli.base.anatomy import Anatomy
from peftcli.delta.delta import Delta, attach
from peftcli.methods.vera import Vera

TARGETS = {
    "bert": (("W_q", "W_v"), ["query", "value"]),
    "gpt2": (("W_o", "W_up", "W_down"), ["c_proj", "c_fc"]),
    "llama": (("W_q", "W_v", "W_down"), ["q_proj", "v_proj", "down_proj"]),
    "t5": (("W_q", "W_v"), ["q", "v"]),
}


def filled(family: str, method: Vera, seed: int = 0) -> Delta:
    delta = attach((method,), tiny_base(family, tasks(family)[-1]), seed=seed)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in delta.parameters.values():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return delta


@pytest.mark.parametrize("family", TARGETS)
def test_logits_gradients_and_twenty_steps_equal_those_of_peft(family):
    from peft import VeraConfig

    sites, modules = TARGETS[family]

    def match(delta, theirs):
        for _, block in delta.blocks():
            path = delta.base.path(block.site)
            for name in ("b", "d"):
                yield getattr(block, name), theirs[f"base_model.model.{path}.vera_lambda_{name}.default"]

    config = VeraConfig(r=5, target_modules=modules, fan_in_fan_out=family == "gpt2")
    pair = beside_peft(family, Vera(rank=5, target_modules=sites), config, match)
    ours = pair.delta.blocks()[0][1].shared.drawn(torch.device("cpu"))
    for one, other in zip(ours, (pair.theirs.base_model.vera_A, pair.theirs.base_model.vera_B), strict=True):
        assert one.shape == other["default"].shape
        one.copy_(other["default"])
    assert pair.largest_logit_difference() <= 1e-5
    assert pair.largest_gradient_difference() <= 1e-5
    assert pair.largest_loss_difference() <= 1e-4


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "qwen3", "t5", "vit"])
def test_the_adapted_network_is_the_one_with_the_moved_weights(family):
    delta, plain = filled(family, Vera(rank=3, target_modules="all-linear")), tiny_base(family, tasks(family)[-1])
    for _, block in delta.blocks():
        A, B = block.shared.drawn(torch.device("cpu"))
        moved = torch.diag(block.b) @ B[: block.site.d_out] @ torch.diag(block.d) @ A[:, : block.site.d_in]
        outputs = [r for a, b in block.site.rows or ((0, block.site.d_out),) for r in range(a, b)]
        weight = plain.parameter(block.site)
        (weight.T if block.site.transposed else weight)[outputs] += moved
    found, expected = (n.network(**tiny_batch(family)) for n in (delta.base, plain))
    pick = "logits" if "logits" in found else "last_hidden_state"
    assert float((found[pick] - expected[pick]).abs().max()) <= 2e-5 * max(1.0, float(expected[pick].abs().max()))


def test_a_and_b_are_kaiming_uniform_and_one_pair_for_all():
    delta = filled("bert", Vera(rank=400, target_modules="all-linear"))
    assert len({id(b.shared) for _, b in delta.blocks()}) == 1
    A, B = delta.blocks()[0][1].shared.drawn(torch.device("cpu"))
    assert (A.shape, B.shape) == ((400, 24), (24, 400))
    for matrix, fan_in in ((A, 24), (B, 400)):
        bound = (6 / fan_in) ** 0.5
        assert 0.98 * bound < float(matrix.abs().max()) <= bound
        assert abs(float(matrix.std()) - bound / 3**0.5) < 0.02 * bound


def test_the_artifact_holds_two_vectors_for_each_matrix_and_a_seed():
    state = filled("bert", Vera(rank=3)).state()
    names = {n.removeprefix("vera.") for n in state if not n.startswith("head.")}
    matrices = [f"layers.{i}.{w}" for i in range(2) for w in ("W_q", "W_v")]
    assert names == {f"{m}.{v}" for m in matrices for v in "bd"} | {"shared.seed"}


@torch.no_grad()
def test_the_seed_of_the_artifact_restores_the_pair():
    one, other = filled("bert", Vera(rank=3)), filled("bert", Vera(rank=3), seed=7)
    batch = tiny_batch("bert")
    expected = one.base.network(**batch).logits
    assert not torch.allclose(other.base.network(**batch).logits, expected, atol=1e-4)
    other.load(one.state())
    assert torch.equal(other.base.network(**batch).logits, expected)


def test_a_network_that_was_evaluated_first_trains():
    delta = filled("bert", Vera(rank=3))
    with torch.inference_mode():
        delta.base.network(**tiny_batch("bert"))
    delta.base.network(**tiny_batch("bert")).logits.pow(2).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in delta.parameters.values())


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_peft_loads_the_exported_delta(family, tmp_path):
    from peft import PeftModel
    from safetensors.torch import save_file

    delta = filled(family, Vera(rank=3))
    layout = delta.methods[0].peft_layout(delta)
    assert layout.exact
    save_file(layout.tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(layout.config))
    plain = tiny_base(family, tasks(family)[-1]).network
    theirs = PeftModel.from_pretrained(plain, tmp_path).eval()
    batch = tiny_batch(family)
    assert float((theirs(**batch).logits - delta.base.network(**batch).logits).abs().max()) <= 1e-5


def test_parts_of_a_fused_module_have_no_form_in_peft():
    delta = filled("gpt2", Vera(rank=3))
    assert "several projections in one" in delta.methods[0].peft_layout(delta)


@pytest.mark.parametrize(
    ("width", "layers", "rank", "published"), [(768, 12, 1024, 0.043), (1024, 24, 256, 0.061)], ids=["base", "large"]
)
def test_the_count_on_roberta_is_the_published_one(width, layers, rank, published):
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": width // 64}
    count = Vera(rank=rank).count(Anatomy.of({"model_type": "roberta", **sizes}))
    assert count == 2 * layers * (width + rank)
    assert round(count / 1e6, 3) == published
