"""Stacks: methods given in any order compose as one model, and what cannot stand together is refused."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from tiny import tasks, tiny_base, tiny_batch
from torch import nn
from torch.nn import functional as F

from peftcli.blocks.low_rank import LowRank
from peftcli.delta.block import Block, Order
from peftcli.delta.composition import compose
from peftcli.delta.count import closed_form, counted
from peftcli.delta.delta import Delta, attach
from peftcli.errors import MethodError
from peftcli.methods.bitfit import Bitfit
from peftcli.methods.dora import Dora
from peftcli.methods.full import Full
from peftcli.methods.houlsby import Houlsby
from peftcli.methods.ia3 import Ia3
from peftcli.methods.lora import Lora
from peftcli.methods.parallel import Parallel
from peftcli.methods.prefix import Prefix
from peftcli.methods.prompt import Prompt

LORA = Lora(rank=2, target_modules="all-linear")
ADAPTER = Houlsby(bottleneck=2, train_norms=False)
PREFIX = Prefix(prefix_length=2, reparameterise=False)
PARALLEL = Parallel(bottleneck=2)
FAMILIES = ("bert", "gpt2", "llama", "opt", "gemma2", "phi3", "t5", "bart", "vit", "bloom", "falcon")


def stacked(family: str, *methods) -> Delta:
    return attach(methods, tiny_base(family, tasks(family)[-1]), seed=0)


@torch.no_grad()
def fill(delta: Delta) -> Delta:
    """Give every tensor numbers that depend on its address alone."""
    for address, parameter in sorted(delta.parameters.items()):
        generator = torch.Generator().manual_seed(len(address) * 1009 + sum(map(ord, address)))
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return delta


@torch.no_grad()
def output(delta: Delta, family: str) -> torch.Tensor:
    out = delta.base.network(**tiny_batch(family))
    return out.logits if "logits" in out else out.last_hidden_state


@pytest.mark.parametrize("family", FAMILIES)
def test_the_order_in_which_methods_are_named_does_not_matter(family):
    prefixes = [PREFIX] if tiny_base(family).anatomy.attention_interface else []
    methods = [LORA, Ia3(), PARALLEL, ADAPTER, *prefixes]
    orders = [methods, methods[::-1], methods[2:] + methods[:2]]
    outputs = [output(fill(stacked(family, *order)), family) for order in orders]
    assert all(torch.equal(outputs[0], other) for other in outputs[1:])


@torch.no_grad()
@pytest.mark.parametrize("methods", list(permutations((LORA, Ia3(), PARALLEL, ADAPTER))))
def test_what_stands_at_one_module_composes_from_the_weight_outwards(methods):
    """In LLaMA the sublayer ends at W_down: A(W_eff (l x) + parallel(x)), each part inside the next."""
    base = tiny_base("llama", "causal-lm")
    site = base.sites(("W_down",), 0)[0]
    weight = base.parameter(site).clone()
    fill(attach(methods, base, seed=0))
    adapter = base.module(site)
    parallel = adapter.wrapped
    scale = parallel.wrapped
    low_rank = scale.wrapped
    x, stream = torch.randn(2, 3, site.d_in), torch.randn(2, 3, site.d_out)
    parallel.entry._x = stream
    h = F.linear(scale.scale * x, weight + low_rank.scale * low_rank.B @ low_rank.A)
    h = h + parallel.bottleneck(stream)
    torch.testing.assert_close(adapter(x), h + adapter.bottleneck(h), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("methods", [(LORA, Ia3()), (Ia3(), LORA)], ids=["lora-first", "ia3-first"])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_scale_multiplies_the_moved_projection_and_its_bias(methods, family):
    base = tiny_base(family, tasks(family)[-1])
    site = base.sites(("W_k",), 0)[0]
    plain = tiny_base(family, tasks(family)[-1]).module(site)
    delta = fill(attach(methods, base, seed=0))
    x = torch.randn(2, 3, site.d_in)
    rows = slice(*site.rows[0]) if site.rows else slice(None)
    scale = delta.parameters["ia3.layers.0.W_k.scale"]
    A, B = (delta.parameters[f"lora.layers.0.W_k.{n}"] for n in "AB")
    expected = scale * (plain(x)[..., rows] + F.linear(F.linear(x, A), B) * LORA.alpha / LORA.rank)
    torch.testing.assert_close(base.module(site)(x)[..., rows], expected, rtol=1e-5, atol=1e-5)


class Recorder(Block):
    """Notes when it computes, and passes on what the wrapped module computes."""

    def __init__(self, wrapped: nn.Module, name: str, order: Order, log: list[str]) -> None:
        super().__init__(wrapped, name)
        self.order = order
        self.log = log

    def adapted(self, x: torch.Tensor) -> torch.Tensor:
        y = self.wrapped(x)
        self.log.append(self.address)
        return y


@pytest.mark.parametrize("given", list(permutations(("SERIES", "WEIGHT", "SCALE", "PARALLEL"))))
def test_blocks_around_one_module_stand_in_their_order(given):
    log: list[str] = []
    network = nn.Sequential(nn.Linear(2, 2))
    inner = network[0]
    for name in given:
        network[0] = Recorder(network[0], name, Order[name], log)
    compose(network)
    network(torch.zeros(1, 2))
    assert log == ["WEIGHT", "SCALE", "PARALLEL", "SERIES"]
    assert next(network.parameters()) is inner.weight


def test_blocks_of_one_order_stand_as_they_were_attached():
    log: list[str] = []
    network = nn.Sequential(nn.Linear(2, 2))
    for name in ("first", "second", "third"):
        network[0] = Recorder(network[0], name, Order.SERIES, log)
    compose(network)
    network(torch.zeros(1, 2))
    assert log == ["first", "second", "third"]


def test_a_chain_that_stands_at_two_places_stays_one():
    log: list[str] = []
    shared = Recorder(Recorder(nn.Linear(2, 2), "outer", Order.SERIES, log), "inner", Order.WEIGHT, log)
    network = nn.ModuleList([nn.Sequential(shared), nn.Sequential(shared)])
    compose(network)
    assert network[0][0] is network[1][0]
    network[1](torch.zeros(1, 2))
    assert log == ["inner", "outer"]


class Jealous(LowRank):
    """Needs the whole weight, as a norm of it does."""

    alone = True


@pytest.mark.parametrize("jealous_first", [True, False])
def test_a_block_that_needs_the_weight_for_itself_refuses_company(jealous_first):
    base = tiny_base("bert")
    site = base.sites(("W_q",), 0)[0]
    for kind in (Jealous, LowRank) if jealous_first else (LowRank, Jealous):
        block = kind(base.module(site), site, rank=1, scale=1.0, dropout=0.0)
        block.address = f"{kind.__name__.lower()}.{block.address}"
        base.replace(site, block)
    with pytest.raises(MethodError, match="both change layer 0 W_q, and one of them needs the weight for itself"):
        compose(base.network)


@pytest.mark.parametrize("other", [Lora(rank=1), Dora(rank=1)], ids=["lora", "dora"])
def test_dora_refuses_another_delta_of_its_matrix_and_allows_one_elsewhere(other):
    with pytest.raises(MethodError, match="needs the weight for itself"):
        stacked("bert", Dora(rank=1), other)
    elsewhere = other.model_copy(update={"target_modules": ("W_k", "W_up")})
    stacked("bert", Dora(rank=1), elsewhere, Bitfit(), Ia3())


def test_it_accepts_company_in_another_part_of_a_fused_projection():
    base = tiny_base("gpt2")
    for name in ("W_q", "W_v"):
        site = base.sites((name,), 0)[0]
        base.replace(site, Jealous(base.module(site), site, rank=1, scale=1.0, dropout=0.0))
    compose(base.network)
    assert [m.site.name for m in base.network.modules() if isinstance(m, Jealous)] == ["W_v", "W_q"]  # outermost first


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_two_loras_are_the_sum_of_their_deltas(family):
    one, other = Lora(rank=2, target_modules=("W_q",)), Lora(rank=3, target_modules=("W_q", "W_v"))
    delta = fill(stacked(family, one, other))
    plain = tiny_base(family, tasks(family)[-1])
    for _, block in delta.blocks():
        parameter = plain.parameter(block.site)
        parameter.copy_(block.fold("weight", parameter.clone(), slice(0, len(parameter))))
    out = plain.network(**tiny_batch(family)).logits
    torch.testing.assert_close(output(delta, family), out, rtol=1e-5, atol=1e-5)
    assert {a.split(".")[0] for a in delta.parameters} == {"lora", "lora-2"}


@torch.no_grad()
def test_the_lengths_of_two_prefixes_add():
    both = fill(stacked("gpt2", PREFIX, Prefix(prefix_length=3, reparameterise=False)))
    one = stacked("gpt2", Prefix(prefix_length=5, reparameterise=False))
    parts = {b.address: b for _, b in both.blocks()}
    for _, block in one.blocks():
        first, second = parts[block.address], parts[block.address.replace("prefix.", "prefix-2.")]
        block.keys.copy_(torch.cat([first.keys, second.keys], 1))
        block.values.copy_(torch.cat([first.values, second.values], 1))
    torch.testing.assert_close(output(both, "gpt2"), output(one, "gpt2"), rtol=1e-5, atol=1e-5)


def test_two_prompts_are_refused():
    with pytest.raises(MethodError, match="two methods of the stack put virtual tokens into the input"):
        stacked("gpt2", Prompt(prompt_length=2), Prompt(prompt_length=3))


def test_a_method_whose_numbers_train_already_is_refused():
    with pytest.raises(MethodError, match="bitfit left nothing to train on bert: what it trains trains already"):
        stacked("bert", Full(), Bitfit())


@pytest.mark.parametrize("family", ["bert", "gpt2", "bart"])
@pytest.mark.parametrize(
    "methods",
    [(LORA, ADAPTER), (Houlsby(bottleneck=2), Bitfit()), (Bitfit(biases=("W_q", "W_up")), Full()), (PREFIX, LORA)],
    ids=lambda methods: "+".join(m.name for m in methods),
)
def test_the_closed_form_of_a_stack_is_what_is_counted(family, methods):
    delta = stacked(family, *methods)
    form, found = closed_form(methods, delta.base.anatomy), counted(delta)
    assert (form.delta, form.per_layer, form.per_site) == (found.delta, found.per_layer, found.per_site)


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "bart"])
def test_a_disabled_stack_is_the_base_bit_for_bit_and_its_state_goes_round(family):
    methods = (ADAPTER, LORA, PREFIX)
    delta = fill(stacked(family, *methods))
    with delta.disabled():
        assert torch.equal(output(delta, family), output(stacked(family, Houlsby(bottleneck=1)), family))
    other = stacked(family, *methods)
    other.load(delta.state())
    assert torch.equal(output(other, family), output(delta, family))
