"""FacT against its formula in the paper's own form, its generalisation to other shapes, and its slots."""

from __future__ import annotations

import pytest
import torch
from tiny import tasks, tiny_base, tiny_batch

from peftcli.base.anatomy import Anatomy
from peftcli.blocks.factors import FactorDelta
from peftcli.delta.delta import Delta, attach
from peftcli.errors import MethodError
from peftcli.methods.fact import Fact

VIT = {"model_type": "vit"}  # ViT-B
D = 16  # width of every tiny network
FFN = 24


def filled(family: str, method: Fact) -> Delta:
    delta = attach((method,), tiny_base(family, tasks(family)[-1]), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in delta.parameters.values():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return delta


def block_of(delta: Delta, name: str) -> FactorDelta:
    return next(b for _, b in delta.blocks() if b.site.name == name and b.site.layer == 0)


@torch.no_grad()
@pytest.mark.parametrize("form", ["tt", "tk"])
@pytest.mark.parametrize("family", ["vit", "gpt2", "llama", "qwen3", "t5"])
def test_the_adapted_network_is_the_one_with_the_moved_weights(form, family):
    """Each matrix, as the paper stores it (d_in, d_out), moves by s U Sigma V slot by slot."""
    method = Fact(form=form, rank=3, scale=0.5)
    delta = filled(family, method)
    plain = tiny_base(family, tasks(family)[-1])
    left, right = (delta.parameters[f"fact.shared.{n}"] for n in "UV")
    for _, block in delta.blocks():
        rows, columns = -(-block.site.d_out // D), -(-block.site.d_in // D)
        moved = torch.zeros(columns * D, rows * D)
        for i in range(rows):
            for j in range(columns):
                if form == "tt":
                    sigma = delta.parameters[f"{block.address}.Sigma"][i, j]
                else:
                    core, mix = delta.parameters["fact.shared.C"], delta.parameters[f"{block.address}.P"][i, j]
                    sigma = sum(mix[k] * core[k] for k in range(3))
                moved[j * D : (j + 1) * D, i * D : (i + 1) * D] = 0.5 * left @ sigma @ right
        moved = moved[: block.site.d_in, : block.site.d_out]
        weight = plain.parameter(block.site)
        weight = weight if block.site.transposed else weight.T
        outputs = [r for a, b in block.site.rows or ((0, block.site.d_out),) for r in range(a, b)]
        weight[:, outputs] += moved
    batch = tiny_batch(family)
    found, expected = delta.base.network(**batch), plain.network(**batch)
    pick = "logits" if "logits" in found else "last_hidden_state"
    difference = float((found[pick] - expected[pick]).abs().max())
    scale = float(expected[pick].abs().max())
    print(f"{family:6s} {form} max |difference| to the moved weights: {difference:.1e} of {scale:.1f}")
    assert difference <= 2e-5 * max(1.0, scale)


def test_the_twelve_slots_of_a_vit_layer():
    config = VIT | {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 1}
    sizes = Fact(rank=2).sizes(Anatomy.of(config))
    slots = {a.rpartition(".")[2]: n // 4 for a, n in sizes.items() if a != "shared"}
    assert slots == {"W_q": 1, "W_k": 1, "W_v": 1, "W_o": 1, "W_up": 4, "W_down": 4}
    assert sizes["shared"] == 2 * 16 * 2


def test_factors_are_shared_stored_once_and_begin_with_nothing():
    delta = attach((Fact(form="tk", rank=2),), tiny_base("vit"), seed=0)
    shared = {a for a in delta.parameters if "shared" in a}
    assert shared == {"fact.shared.U", "fact.shared.V", "fact.shared.C"}
    assert len({id(b.shared) for _, b in delta.blocks()}) == 1
    assert not delta.parameters["fact.shared.V"].any()
    assert delta.parameters["fact.shared.U"].any()


def test_two_facts_in_a_stack_have_factors_of_their_own():
    methods = (Fact(rank=2, target_modules=("W_q",)), Fact(rank=3, target_modules=("W_q", "W_up")))
    delta = attach(methods, tiny_base("vit"), seed=0)
    assert delta.parameters["fact.shared.U"].shape == (D, 2)
    assert delta.parameters["fact-2.shared.U"].shape == (D, 3)


@torch.no_grad()
def test_rows_of_the_delta_are_rows_of_the_whole():
    delta = filled("llama", Fact(rank=2))
    for name in ("W_q", "W_v", "W_up", "W_down"):
        block = block_of(delta, name)
        whole = block.delta_rows(slice(None))
        assert whole.shape == (block.site.d_out, block.site.d_in)
        parts = [block.delta_rows(slice(i, min(i + 5, len(whole)))) for i in range(0, len(whole), 5)]
        torch.testing.assert_close(torch.cat(parts), whole)


@torch.no_grad()
def test_dropout_acts_on_the_values_between_the_factors_and_only_in_training():
    block = block_of(filled("vit", Fact(rank=1, dropout=0.5)), "W_q")
    x = torch.randn(1, D)
    plain, branch = block.wrapped(x), block.delta_rows(slice(None)) @ x[0]
    torch.testing.assert_close((block.eval()(x) - plain)[0], branch, rtol=1e-4, atol=1e-5)
    seen = {round(float((block.train()(x) - plain)[0, 0] / branch[0])) for _ in range(50)}
    assert seen == {0, 2}


def test_a_rank_above_the_width_is_refused():
    with pytest.raises(MethodError, match="rank is 17"):
        attach((Fact(rank=17),), tiny_base("vit"), seed=0)
