import pytest
import torch
from tiny import FAMILIES, tasks, tiny_base, tiny_batch
from torch import nn

from peftcli.base.base_model import BaseModel
from peftcli.errors import MethodError


class Around(nn.Module):
    """Stands around a module as blocks do."""

    def __init__(self, wrapped: nn.Module, factor: float = 1.0) -> None:
        super().__init__()
        self.wrapped = wrapped
        self.factor = factor

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("wrapped"), name)

    def forward(self, *args, **kwargs):
        out = self.wrapped(*args, **kwargs)
        return tuple(o if o is None else self.factor * o for o in out) if isinstance(out, tuple) else self.factor * out


def _logits(base, family):
    with torch.no_grad():
        return base.network(**tiny_batch(family))[0]


def _task(family):
    return "classification" if "classification" in tasks(family) else None


@pytest.mark.parametrize("family", FAMILIES)
def test_every_site_can_be_wrapped_twice_and_the_function_stays(family):
    base = tiny_base(family, _task(family))
    before = _logits(base, family)
    for site in base.sites(base.anatomy.site_names) * 2:
        base.replace(site, Around(base.module(site)))
        assert isinstance(base.module(site), Around)
        if site.out:
            base.replace(base.sublayer_out(site), Around(base.module(base.sublayer_out(site))))
    assert torch.equal(_logits(base, family), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_put_at_a_site_computes(family):
    for name in ("W_q", "W_o", "W_up", "attention_norm"):
        base = tiny_base(family, _task(family))
        before = _logits(base, family)
        for site in base.sites([name]):
            base.replace(site, Around(base.module(site), factor=2.0))
        assert not torch.equal(_logits(base, family), before), name


def test_the_last_block_stands_outermost():
    base = tiny_base("bert")
    (site,) = base.sites(["W_q"], layers=0)
    base.replace(site, Around(base.module(site), 2.0))
    base.replace(site, Around(base.module(site), 3.0))
    assert base.module(site).factor == 3.0
    assert base.module(site).wrapped.factor == 2.0


def test_a_site_inside_a_wrapped_module_is_still_found():
    base = tiny_base("bert")
    sublayer, query = base.sites(["attention", "W_q"], layers=0)
    base.replace(sublayer, Around(base.module(sublayer)))
    base.replace(query, Around(base.module(query)))
    assert isinstance(base.module(sublayer).wrapped.query, Around)
    assert base.parameter(query) is base.parameters["encoder.layer.0.attention.self.query.weight"]


def test_everything_is_frozen():
    base = tiny_base("gpt2", "classification")
    assert not any(p.requires_grad for p in base.network.parameters())


def test_tied_parameters_are_there_once():
    base = tiny_base("gpt2", "causal-lm")
    assert "lm_head.weight" not in base.parameters
    assert base.network.lm_head.weight is base.parameters["transformer.wte.weight"]


@pytest.mark.parametrize("family", FAMILIES)
def test_names_and_addresses_lead_to_each_other(family):
    for task in tasks(family):
        base = tiny_base(family, task)
        addresses = {name: base.address(name) for name in base.parameters}
        assert len(set(addresses.values())) == len(addresses)
        assert all(base.name(address) == name for name, address in addresses.items())


def test_addresses_do_not_change_with_the_head():
    bare, classifier = tiny_base("opt"), tiny_base("opt", "classification")
    inner = {classifier.address(n) for n in classifier.parameters if n not in classifier.head}
    assert inner == {bare.address(n) for n in bare.parameters}
    assert bare.prefix == "decoder"
    assert classifier.prefix == "model.decoder"


def test_the_layers_hold_everything_but_what_stands_around_them():
    base = tiny_base("t5", "classification")
    names = [n for s, count in base.anatomy.layers.items() for i in range(count) for n in base.layer_parameters(s, i)]
    outside = {n.removeprefix("transformer.") for n in base.parameters.keys() - set(names) - base.head}
    assert outside == {"shared.weight", "encoder.final_layer_norm.weight", "decoder.final_layer_norm.weight"}
    assert len(set(names)) == len(names)


def test_a_bias_that_is_not_there_is_refused():
    base = tiny_base("llama")
    with pytest.raises(MethodError, match="layer 1 W_q of llama has no bias"):
        base.parameter(base.sites(["W_q"], layers=1)[0], "bias")


def test_the_head_is_not_counted_in_the_size():
    base = tiny_base("bert", "classification")
    assert base.head_size == 16 * 3 + 3
    assert base.size == sum(p.numel() for p in base.network.bert.parameters())
    assert isinstance(base, BaseModel)
