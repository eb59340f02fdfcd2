"""Packed weights, beside bitsandbytes' own functions and beside the formula."""

import math

import pytest
import torch
from quantised_bases import dequantised_twin, quantised_base
from tiny import FAMILIES, tasks, tiny_batch

from peftcli.base.quantise import held_bytes, quantised_paths
from peftcli.base.quantised_linear import Int8, Nf4, quantised

functional = pytest.importorskip("bitsandbytes.functional", reason="the engine is an extra")


def _weight(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _levels() -> torch.Tensor:
    """The 16 levels of NormalFloat: quantiles of the normal distribution at equal distances, and zero."""
    positive = torch.linspace(0.9677083, 0.5, 9, dtype=torch.float64)[:-1]
    negative = torch.linspace(0.9677083, 0.5, 8, dtype=torch.float64)[:-1]
    quantiles = [math.sqrt(2) * torch.erfinv(2 * p - 1) for p in (positive, negative)]
    levels = torch.cat([quantiles[0], torch.zeros(1), -quantiles[1]])
    return (levels / levels.abs().max()).sort().values


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(64, 64), (48, 200), (7, 30), (5, 3)])
def test_nf4_is_what_bitsandbytes_packs_and_unpacks_bit_for_bit(shape, dtype, monkeypatch):
    monkeypatch.setattr("peftcli.base.quantised_linear._PIECE", 64 * 3)
    weight = _weight(*shape, dtype=dtype)
    codes, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
    ours = Nf4.of(weight)
    assert torch.equal(ours.codes, codes)
    assert torch.equal(ours.absmax, state.absmax)
    state.shape = torch.Size([1, weight.numel()])
    assert torch.equal(ours.unpacked(dtype).reshape(1, -1), functional.dequantize_4bit(codes, state))


def test_nf4_is_the_formula():
    weight = _weight(40, 96)
    packed, levels = Nf4.of(weight), _levels()
    blocks = weight.reshape(-1, 64)
    absmax = blocks.abs().amax(dim=1, keepdim=True)
    nearest = levels[((blocks / absmax)[..., None].double() - levels).abs().argmin(-1)].float()
    once = nearest * absmax
    found = packed.unpacked(torch.float32).reshape(-1, 64)
    # The level of every weight is the nearest one; its block's absmax went through 8 bits.
    assert torch.equal(found == 0, once == 0)
    ratio = (found / nearest)[nearest != 0]
    assert float((ratio / absmax.expand_as(nearest)[nearest != 0] - 1).abs().max()) < 0.02
    assert float((found - once).norm() / once.norm()) < 0.01
    error = float((found - blocks).norm() / blocks.norm())
    assert 0.08 < error < 0.1  # 0.092 for normal weights


def test_nf4_takes_four_bits_and_an_eighth():
    packed = Nf4.of(_weight(512, 512))
    bits = 8 * sum(p.nbytes for p in packed.parameters()) / 512**2
    assert bits == pytest.approx(4.127, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_is_what_llm_int8_stores(dtype, monkeypatch):
    monkeypatch.setattr("peftcli.base.quantised_linear._PIECE", 100)
    weight = _weight(24, 48, dtype=dtype)
    codes, scales, _ = functional.int8_vectorwise_quant(weight)
    ours = Int8.of(weight)
    assert torch.equal(ours.codes, codes)
    assert torch.allclose(ours.unpacked(torch.float32), functional.int8_vectorwise_dequant(codes, scales), rtol=1e-6)
    assert float((ours.unpacked(torch.float32) - weight.float()).abs().max()) <= float(ours.scale.max()) * 0.51


def test_a_row_or_block_of_zeros_stays_zero():
    weight = torch.zeros(4, 64)
    weight[0] = 1.0
    for kind in (Nf4, Int8):
        unpacked = kind.of(weight).unpacked(torch.float32)
        assert torch.equal(unpacked[1:], weight[1:])
        assert bool(torch.isfinite(unpacked).all())


@pytest.mark.parametrize("form", ["nf4", "int8"])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_layer_has_the_outputs_and_gradients_of_the_unpacked_weight(form, transposed):
    bias = torch.nn.Parameter(_weight(24, seed=1))
    layer = quantised(_weight(16, 24) if transposed else _weight(24, 16), form, bias=bias, transposed=transposed)
    assert layer.weight.shape == layer.weight_shape == ((16, 24) if transposed else (24, 16))
    x = _weight(2, 5, 16, seed=2).requires_grad_()
    W = layer.weight.T if transposed else layer.weight
    expected = torch.nn.functional.linear(x, W, bias)
    wanted = torch.autograd.grad(expected.pow(2).sum(), (x, bias))
    found = torch.autograd.grad(layer(x).pow(2).sum(), (x, bias))
    assert torch.equal(layer(x), expected)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, wanted, strict=True))
    assert not any(p.requires_grad for p in layer.packed.parameters())


def test_nothing_of_the_unpacked_weight_is_kept_for_the_backward_pass():
    layer = quantised(_weight(24, 16), "nf4", bias=None, transposed=False)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()), lambda t: t):
        layer(_weight(3, 16).requires_grad_())
    assert kept == []


def test_autocast_decides_what_is_computed_in():
    layer = quantised(_weight(24, 16), "nf4", bias=torch.nn.Parameter(torch.ones(24)), transposed=False)
    assert layer(_weight(3, 16)).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(_weight(3, 16)).dtype == torch.bfloat16


@pytest.mark.parametrize("form", ["nf4", "int8"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_computes_with_the_unpacked_weights(family, form):
    task = tasks(family)[-1]
    base = quantised_base(family, task, form)
    twin = dequantised_twin(base, family, task)
    batch = tiny_batch(family)
    with torch.no_grad():
        one, other = base.network(**batch)[0], twin.network(**batch)[0]
    assert float((one - other).abs().max()) < 1e-5
    assert base.size == base.anatomy.size
    assert len(base.quantised) == len(quantised_paths(base.anatomy))


@pytest.mark.parametrize("form", ["nf4", "int8"])
def test_the_memory_is_foretold_from_the_config(form):
    base = quantised_base("llama", "causal-lm", form)
    # Matrices of tiny networks end in the middle of a block, and each row has a scale.
    assert held_bytes(base.anatomy, form, 4) <= base.bytes < 1.3 * held_bytes(base.anatomy, form, 4)
