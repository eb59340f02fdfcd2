"""Intrinsic dimension against dense projections, and what its artifact must hold."""

from __future__ import annotations

import pytest
import torch
from tiny import tasks, tiny_base, tiny_batch

from peftcli.base.anatomy import Anatomy
from peftcli.blocks.random_projection import ProjectedDelta, dense, fastfood, hadamard
from peftcli.delta.delta import Delta, attach
from peftcli.errors import MethodError
from peftcli.methods.intrinsic_dimension import IntrinsicDimension

CPU = torch.device("cpu")
SHAPES = [(24, 3), (64, 5), (100, 17), (13, 40), (300, 64), (5000, 100)]


def sylvester(size: int) -> torch.Tensor:
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


def written_out(size: int, dimension: int, seed: int) -> torch.Tensor:
    """H G Pi H B / c as the product of five matrices, without a shortcut. Returns (size, dimension)."""
    padded = 1 << (max(size, 1 << (dimension - 1).bit_length()) - 1).bit_length()
    generator = torch.Generator().manual_seed(seed)
    signs = torch.zeros(padded)
    signs[:dimension] = torch.randint(2, (dimension,), generator=generator) * 2.0 - 1
    permutation = torch.eye(padded)[torch.randperm(padded, generator=generator)]
    normal = torch.randn(padded, generator=generator)
    c = (padded * (normal * normal).sum()).sqrt() * (size / padded) ** 0.5
    whole = sylvester(padded) @ torch.diag(normal) @ permutation @ sylvester(padded) @ torch.diag(signs) / c
    return whole[:size, :dimension]


@pytest.mark.parametrize("size", [1, 2, 32, 64, 128, 4096, 8192])
def test_the_transform_is_the_hadamard_matrix(size):
    x = torch.randn(size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(hadamard(x), sylvester(size) @ x, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("size", "dimension"), SHAPES)
def test_fastfood_and_its_gradient_are_those_of_the_matrix_written_out(size, dimension):
    matrix = written_out(size, dimension, seed=5)
    project = fastfood(size, dimension, torch.Generator().manual_seed(5), CPU)
    v = torch.randn(dimension, requires_grad=True)
    w = torch.randn(size)
    torch.testing.assert_close(project(v), matrix @ v, rtol=1e-4, atol=1e-5)
    (project(v) @ w).backward()
    torch.testing.assert_close(v.grad, matrix.T @ w, rtol=1e-4, atol=1e-5)


def test_the_columns_of_fastfood_have_a_norm_of_about_one():
    project = fastfood(5000, 20, torch.Generator().manual_seed(0), CPU)
    norms = torch.stack([project(column).norm() for column in torch.eye(20)])
    assert (norms - 1).abs().max() < 0.05


def filled(family: str, method: IntrinsicDimension, seed: int = 0) -> Delta:
    delta = attach((method,), tiny_base(family, tasks(family)[-1]), seed=seed)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in delta.parameters.values():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return delta


def blocks(delta: Delta) -> list[ProjectedDelta]:
    return [b for _, b in delta.blocks() if isinstance(b, ProjectedDelta)]


@torch.no_grad()
@pytest.mark.parametrize("form", ["did", "said"])
@pytest.mark.parametrize("projection", ["fastfood", "dense"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "qwen3", "falcon", "t5"])
def test_the_adapted_network_is_the_one_with_the_moved_weights(form, projection, family):
    """W_t + lambda_t P_t v, with P_t column by column from the projection itself."""
    delta = filled(family, IntrinsicDimension(form=form, projection=projection, dimension=60))
    plain = tiny_base(family, tasks(family)[-1])
    vector = delta.parameters["intrinsic_dimension.shared.vector"]
    assert len(vector) == (60 if form == "did" else 60 - len(blocks(delta)))
    for block in blocks(delta):
        matrix = torch.stack([block._projection()(column) for column in torch.eye(len(vector))], 1)
        moved = (matrix @ vector).view(block.site.d_out, block.site.d_in)
        moved = moved * delta.parameters[f"{block.address}.scale"] if form == "said" else moved
        weight = plain.parameter(block.site)
        rows = [r for a, b in block.site.rows or ((0, block.site.d_out),) for r in range(a, b)]
        if block.site.transposed:
            weight[:, rows] += moved.T
        else:
            weight[rows] += moved
    batch = tiny_batch(family)
    found, expected = delta.base.network(**batch), plain.network(**batch)
    pick = "logits" if "logits" in found else "last_hidden_state"
    torch.testing.assert_close(found[pick], expected[pick], rtol=1e-4, atol=2e-5)


def test_every_matrix_has_a_projection_of_its_own():
    delta = filled("bert", IntrinsicDimension(dimension=8))
    moved = [b.delta() for b in blocks(delta) if b.site.name == "W_q"]
    assert not torch.allclose(moved[0], moved[1], atol=1e-3)


def test_the_artifact_holds_the_numbers_and_a_seed_and_nothing_else():
    delta = filled("bert", IntrinsicDimension(form="said", dimension=40))
    state = delta.state()
    numbers = {n: t.numel() for n, t in state.items() if not n.startswith("head.")}
    assert numbers.pop("intrinsic_dimension.shared.seed") == 1
    assert sum(numbers.values()) == 40


@torch.no_grad()
def test_the_seed_of_the_artifact_restores_the_projections():
    delta = filled("bert", IntrinsicDimension(dimension=8), seed=3)
    other = attach((IntrinsicDimension(dimension=8),), tiny_base("bert", "classification"), seed=4)
    batch = tiny_batch("bert")
    before = other.base.network(**batch).logits
    other.load(delta.state())
    assert torch.equal(other.base.network(**batch).logits, delta.base.network(**batch).logits)
    assert not torch.equal(before, delta.base.network(**batch).logits)


def test_another_run_draws_other_projections():
    one, other = (filled("bert", IntrinsicDimension(dimension=8), seed=s) for s in (0, 1))
    assert not torch.allclose(blocks(one)[0].delta(), blocks(other)[0].delta(), atol=1e-3)


def test_a_network_that_was_evaluated_first_trains():
    delta = attach((IntrinsicDimension(dimension=8),), tiny_base("bert", "classification"), seed=0)
    with torch.inference_mode():
        delta.base.network(**tiny_batch("bert"))
    delta.base.network(**tiny_batch("bert")).logits.pow(2).sum().backward()
    assert delta.parameters["intrinsic_dimension.shared.vector"].grad.abs().min() > 0


@torch.no_grad()
def test_rows_follow_the_numbers_when_they_move():
    delta = filled("bert", IntrinsicDimension(dimension=8))
    block = blocks(delta)[0]
    before = block.delta_rows(slice(0, 3)).clone()
    delta.parameters["intrinsic_dimension.shared.vector"].mul_(2)
    torch.testing.assert_close(block.delta_rows(slice(0, 3)), 2 * before)


@pytest.mark.parametrize("form", ["did", "said"])
def test_the_dimension_is_the_count(form):
    config = {"model_type": "roberta", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    method = IntrinsicDimension(form=form, dimension=207)  # SAID's d90 of RoBERTa-large on MRPC
    assert method.count(Anatomy.of(config)) == 207


def test_scales_for_more_matrices_than_numbers_are_refused():
    with pytest.raises(MethodError, match="spends one number on each of 12 matrices"):
        IntrinsicDimension(form="said", dimension=12).count(tiny_base("bert").anatomy)


def test_dense_projections_of_a_large_network_are_refused():
    with pytest.raises(MethodError, match="would hold"):
        IntrinsicDimension(projection="dense").count(Anatomy.of({"model_type": "bert"}))


def test_a_dense_projection_is_normal():
    columns = dense(5000, 4, torch.Generator().manual_seed(0), CPU)(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    assert abs(float(columns.std()) - 0.01) < 1e-3
