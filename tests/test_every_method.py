"""The contract, on every method and every family: a new method or family is in here by being there."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from tiny import FAMILIES, tasks, tiny_base, tiny_batch

from peftcli.base.anatomy import Anatomy
from peftcli.delta.count import closed_form, counted
from peftcli.delta.delta import BASE, Delta, attach
from peftcli.delta.method import Method, TrainedDelta
from peftcli.delta.registry import all_methods
from peftcli.errors import MethodError

SIZE = 2  # of every method's size setting, so that it fits a tiny network
SIZES = {"count_layers": 1, "survivors": "50%"}  # of those where it would be too much, or too little to compute with
TINY = dict(FAMILIES)


def small(method: type[Method]) -> Method:
    """Return a method at a size that fits a tiny network, flat where it has a choice."""
    setting = method.card.size_setting
    return method(**({setting: SIZES.get(setting, SIZE * method().size_step)} if setting else {}))


def task_of(family: str) -> str | None:
    """Return what a family is for: a decoder generates, the others classify."""
    return tasks(family)[-1]


def fitted(name: str, family: str) -> Method:
    """Return a small method; one that is built on trained deltas, on two of this family."""
    method = small(all_methods()[name])
    kind = method.card.builds_on
    return method.built_on([trained(kind, family, seed) for seed in (1, 2)]) if kind else method


def trained(name: str, family: str, seed: int) -> TrainedDelta:
    delta = adapted(name, family, seed)
    randomise(delta, seed=seed)
    return TrainedDelta(folder=f"{name}-{seed}", identity=str(seed), methods=delta.methods, tensors=delta.state())


@cache
def refusal(name: str, family: str) -> str | None:
    """Return why a method refuses a family; None where it attaches."""
    try:
        attach((fitted(name, family),), tiny_base(family, task_of(family)), seed=0)
    except MethodError as error:
        return str(error)
    return None


CELLS = [(m, f) for m in all_methods() for f in TINY]


@pytest.fixture(params=CELLS, ids=lambda cell: "-".join(cell))
def cell(request) -> tuple[str, str]:
    name, family = request.param
    if reason := refusal(name, family):
        pytest.skip(f"refuses: {reason.splitlines()[0]}")
    return name, family


@pytest.mark.parametrize("name", all_methods())
def test_what_it_refuses_it_refuses_with_a_way_out(name):
    reasons = {family: refusal(name, family) for family in TINY}  # any other error fails here
    assert not [family for family, reason in reasons.items() if reason and "hint: " not in reason]


def adapted(name: str, family: str, seed: int = 0) -> Delta:
    return attach((fitted(name, family),), tiny_base(family, task_of(family)), seed=seed)


def batch_for(delta: Delta, family: str) -> dict[str, torch.Tensor]:
    """Return inputs, with the method's virtual tokens where it has some."""
    batch = tiny_batch(family)
    virtual = delta.methods[0].virtual_tokens(delta.base.anatomy)
    if virtual is None:
        return batch
    ids = torch.arange(virtual.first_id, virtual.first_id + virtual.count).expand(len(batch["input_ids"]), -1)
    at = virtual.after
    mask = batch["attention_mask"]
    return {
        "input_ids": torch.cat([batch["input_ids"][:, :at], ids, batch["input_ids"][:, at:]], 1),
        "attention_mask": torch.cat([mask[:, :at], torch.ones_like(ids), mask[:, at:]], 1),
    }


def output(delta: Delta, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    out = delta.base.network(**batch)
    return out.logits if "logits" in out else out.last_hidden_state


def randomise(delta: Delta, scale: float = 0.3, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in delta.parameters.values():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def base_output(family: str) -> torch.Tensor:
    with torch.no_grad():
        out = tiny_base(family, task_of(family)).network(**tiny_batch(family))
    return out.logits if "logits" in out else out.last_hidden_state


@torch.no_grad()
def test_it_starts_at_the_base_or_its_card_says_not(cell):
    delta = adapted(*cell)
    if not delta.starts_at_base:
        pytest.skip("its card says that it does not")
    assert (output(delta, batch_for(delta, cell[1])) - base_output(cell[1])).abs().max() <= 1e-6


@torch.no_grad()
def test_it_moves_the_function_once_its_numbers_move(cell):
    delta = adapted(*cell)
    if not delta.size:
        pytest.skip("it trains a head alone")
    before = output(delta, batch_for(delta, cell[1]))
    randomise(delta)
    assert (output(delta, batch_for(delta, cell[1])) - before).abs().max() > 1e-3


@torch.no_grad()
def test_a_disabled_delta_is_the_base_bit_for_bit(cell):
    delta = adapted(*cell)
    randomise(delta)
    before = output(delta, batch_for(delta, cell[1]))
    with delta.disabled():
        assert torch.equal(output(delta, tiny_batch(cell[1])), base_output(cell[1]))
    assert torch.equal(output(delta, batch_for(delta, cell[1])), before)


@torch.no_grad()
def test_its_state_goes_round_bit_for_bit(cell):
    delta, other = adapted(*cell), adapted(*cell, seed=1)
    randomise(delta)
    finished = delta.pack()
    fresh = attach(finished.methods, tiny_base(cell[1], task_of(cell[1])), seed=2)
    fresh.load(finished.state())
    assert torch.equal(output(fresh, batch_for(fresh, cell[1])), output(finished, batch_for(finished, cell[1])))
    assert other.state().keys() == adapted(*cell).state().keys()


@torch.no_grad()
def test_packing_keeps_the_function(cell):
    delta = adapted(*cell)
    randomise(delta)
    before = output(delta, batch_for(delta, cell[1]))
    packed = delta.pack()
    torch.testing.assert_close(output(packed, batch_for(packed, cell[1])), before, rtol=1e-5, atol=1e-5)


def test_its_closed_form_is_what_is_counted(cell):
    delta = adapted(*cell).pack()
    form = closed_form(delta.methods, delta.base.anatomy)
    found = counted(delta)
    assert (form.delta, form.base, form.head) == (found.delta, found.base, found.head)
    assert form.per_layer == found.per_layer
    assert form.per_site == found.per_site


def test_two_seeds_differ_and_one_seed_repeats(cell):
    one, same, other = adapted(*cell).state(), adapted(*cell).state(), adapted(*cell, seed=1).state()
    assert all(torch.equal(one[n], same[n]) for n in one)
    blocks = [n for n in one if not n.startswith((BASE, "head."))]
    random = [n for n in blocks if one[n].any() and one[n].unique().numel() > 1]
    assert not random or any(not torch.equal(one[n], other[n]) for n in random)


def train(delta: Delta, family: str, steps: int = 3) -> set[str]:
    """Take a few steps and return the addresses that received a gradient."""
    reached: set[str] = set()
    trained = delta.trained()
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2, weight_decay=0.0)
    target = None
    for _ in range(steps):
        optimizer.zero_grad()
        out = output(delta, batch_for(delta, family))
        target = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)) if target is None else target
        (out - target).pow(2).mean().backward()
        reached |= {a for a, p in trained.items() if p.grad is not None and p.grad.abs().max() > 0}
        optimizer.step()
    return reached


def test_what_trains_gets_gradients_and_what_is_frozen_stays(cell):
    delta = adapted(*cell)
    if not delta.trained():
        pytest.skip("nothing trains on a network without a head")
    frozen = {n: p.detach().clone() for n, p in delta.base.network.named_parameters() if not p.requires_grad}
    before = {a: p.detach().clone() for a, p in delta.trained().items()}
    reached = train(delta, cell[1])
    expected = {a for a in delta.trained() if not _needs_no_gradient(a, cell[1])}
    # The few units of a tiny network may all be off at one start; then another one must reach them.
    others = (train(adapted(*cell, seed=seed), cell[1]) for seed in range(1, 8))
    assert expected <= reached or any(expected <= reached | other for other in others)
    assert all(not torch.equal(before[a], p) for a, p in delta.trained().items() if a in reached)
    now = dict(delta.base.network.named_parameters())
    assert all(torch.equal(p, now[n]) for n, p in frozen.items())


# What the batch of a tiny network does not touch, or what the mathematics leaves without a gradient.
UNTOUCHED = ("position_embeddings", "wpe", "embed_positions", "token_type_embeddings", "rel_embeddings")


def _needs_no_gradient(address: str, family: str) -> bool:
    of_keys = address.endswith(("W_k.bias", "W_k.shift"))  # the softmax does not see a shift of all keys
    unused = "post_layernorm" in address and family.startswith("clip")  # its classifier reads the patches before it
    return of_keys or unused or any(part in address for part in UNTOUCHED)


def test_gradient_checkpointing_changes_nothing(cell):
    name, family = cell
    plain, saving = adapted(name, family), adapted(name, family)
    if not plain.trained():
        pytest.skip("nothing trains on a network without a head")
    if not saving.base.network.supports_gradient_checkpointing:
        pytest.skip("the family cannot checkpoint")
    for delta in (plain, saving):
        # In float64 what is left between the two is no rounding that has to be allowed for.
        _without_dropout(delta.base.network.train().double())
    saving.base.network.activation_checkpointing_enable({"use_reentrant": False})
    caches = {} if family in ("vit", "deit", "clip", "clip_vision_model") else {"use_cache": False}
    if TINY[family]["model_type"] in ("bert", "roberta", "electra", "distilbert", "deberta-v2"):
        caches = {}
    for delta in (plain, saving):
        randomise(delta)
        batch = {n: t.double() if t.is_floating_point() else t for n, t in batch_for(delta, family).items()}
        output(delta, {**batch, **caches}).pow(2).mean().backward()
    for one, other in zip(plain.trained().values(), saving.trained().values(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-7, atol=1e-9)


def _without_dropout(network: torch.nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "dropout_prob", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


@torch.no_grad()
def test_it_works_on_a_bfloat16_base(cell):
    name, family = cell
    base = tiny_base(family, task_of(family))
    base.network.to(torch.bfloat16)
    delta = attach((fitted(name, family),), base, seed=0)
    randomise(delta)
    assert all(p.dtype == torch.float32 for p in delta.trained().values())
    batch = batch_for(delta, family)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(output(delta, batch)).all()


@torch.no_grad()
def test_generation_with_a_cache_equals_generation_without(cell):
    name, family = cell
    if task_of(family) != "causal-lm":
        pytest.skip("it does not generate")
    delta = adapted(name, family)
    randomise(delta, 0.1)
    batch = {n: t[:1] for n, t in batch_for(delta, family).items()}
    settings = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with_cache = delta.base.network.generate(**batch, use_cache=True, **settings)
    without = delta.base.network.generate(**batch, use_cache=False, **settings)
    assert torch.equal(with_cache, without)


def test_an_anatomy_of_the_same_config_gives_the_same_count(cell):
    name, family = cell
    method = small(all_methods()[name])
    anatomy = Anatomy.of(TINY[family], task=task_of(family), labels=3)
    assert method.count(anatomy) == sum(method.sizes(anatomy).values())
