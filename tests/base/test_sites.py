import pytest
import torch
from tiny import FAMILIES, tasks, tiny_base, tiny_batch, tiny_config
from torch import nn

from peftcli.base.anatomy import Anatomy
from peftcli.errors import BaseModelError, MethodError, RecipeError

EVERY = tuple(FAMILIES)
PROJECTIONS = ("W_q", "W_k", "W_v", "W_o", "W_up", "W_gate", "W_down")


def _base(family):
    return tiny_base(family, "classification" if "classification" in tasks(family) else None)


def _rows(site):
    return torch.cat([torch.arange(*r) for r in site.rows]) if site.rows else slice(None)


def _logits(base, family):
    with torch.no_grad():
        return base.network(**tiny_batch(family))[0]


def _change(base, site, change):
    """Change the rows of a projection that are this site's, weight and bias."""
    with torch.no_grad():
        for name in ("weight", "bias") if site.bias else ("weight",):
            tensor = base.parameter(site, name)
            part = tensor.T if site.transposed and name == "weight" else tensor
            part[_rows(site)] = change(part[_rows(site)])


class _Inputs:
    """Notes what enters a module."""

    def __init__(self, module: nn.Module) -> None:
        self.seen: list[torch.Tensor] = []
        self.handle = module.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, _module, args, kwargs):
        self.seen.append(args[0] if args else kwargs["hidden_states"])


@pytest.mark.parametrize("family", EVERY)
def test_every_projection_has_the_widths_it_says(family):
    base = _base(family)
    for site in base.sites(base.anatomy.projections):
        weight = base.parameter(site).T if site.transposed else base.parameter(site)
        assert tuple(weight[_rows(site)].shape) == (site.d_out, site.d_in)
        assert site.bias == (base.module(site).bias is not None)


@pytest.mark.parametrize("family", EVERY)
def test_fused_parts_share_the_rows_without_gap_or_overlap(family):
    base = _base(family)
    modules = {}
    for site in base.sites(base.anatomy.projections):
        if site.rows:
            modules.setdefault(site.path, []).append(_rows(site))
            whole = base.parameter(site).shape[1 if site.transposed else 0]
            assert whole == base.output_rows(site)
    for path, parts in modules.items():
        rows = torch.cat(parts).sort().values
        assert rows.tolist() == list(range(len(rows))), path


@pytest.mark.parametrize("family", EVERY)
def test_without_values_attention_gives_nothing(family):
    base = _base(family)
    before = _logits(base, family)
    for site in base.sites(["W_v"]):
        _change(base, site, torch.zeros_like)
    entering = [_Inputs(base.module(s)) for s in base.sites(["W_o"])]
    after = _logits(base, family)
    assert all(not t.any() for e in entering for t in e.seen)
    assert not torch.allclose(before, after)


@pytest.mark.parametrize("family", [f for f in EVERY if f != "deberta-v2"])
def test_without_queries_the_keys_do_not_matter(family):
    base = _base(family)
    noise = torch.Generator().manual_seed(3)
    for site in base.sites(["W_q"]):
        _change(base, site, torch.zeros_like)
    before = _logits(base, family)
    for site in base.sites(["W_k"]):
        _change(base, site, lambda w: w + torch.randn(w.shape, generator=noise))
    torch.testing.assert_close(_logits(base, family), before)


@pytest.mark.parametrize("family", EVERY)
def test_the_keys_matter_where_there_are_queries(family):
    base = _base(family)
    before = _logits(base, family)
    for site in base.sites(["W_k"]):
        _change(base, site, lambda w: -3 * w)
    assert not torch.allclose(before, _logits(base, family), atol=1e-4)


@pytest.mark.parametrize("family", [f for f in EVERY if "W_gate" in Anatomy.of(tiny_config(f)).site_names])
def test_the_gate_is_not_the_up_projection(family):
    base = _base(family)
    down = _Inputs(base.module(base.sites(["W_down"], layers=0)[0]))
    _logits(base, family)
    first = base.sites(["W_up", "W_gate"], layers=0)
    _change(base, first[0], lambda w: 2 * w)
    _logits(base, family)
    torch.testing.assert_close(down.seen[1], 2 * down.seen[0])
    _change(base, first[1], lambda w: 2 * w)
    _logits(base, family)
    assert not torch.allclose(down.seen[2], 2 * down.seen[1])


@pytest.mark.parametrize("family", EVERY)
def test_behind_the_ends_of_the_sublayers_stands_nothing_but_norms(family):
    base = _base(family)
    for site in base.sites(["attention", "ffn"]):
        end = base.network.get_submodule(base.sublayer_out(site))
        end.register_forward_hook(lambda _module, _args, out: torch.zeros_like(out))
    before = _logits(base, family)
    for site in base.sites(base.anatomy.projections):
        _change(base, site, lambda w: w + 1)
    torch.testing.assert_close(_logits(base, family), before)


@pytest.mark.parametrize("family", EVERY)
def test_a_sublayer_begins_where_its_projections_begin(family):
    base = _base(family)
    entry = {"attention": "W_q", "ffn": "W_up"}
    for name, projection in entry.items():
        pairs = zip(base.sites([name]), base.sites([projection]), strict=True)
        inputs = [(_Inputs(base.module(a)), _Inputs(base.module(b))) for a, b in pairs]
        _logits(base, family)
        for sublayer, matrix in inputs:
            assert torch.equal(sublayer.seen[0], matrix.seen[0])


@pytest.mark.parametrize("family", EVERY)
def test_the_norms_change_the_function(family):
    base = _base(family)
    for site in base.sites([n for n in ("attention_norm", "ffn_norm") if n in base.anatomy.site_names]):
        before = _logits(base, family)
        with torch.no_grad():
            base.parameter(site)[0] += 3
        assert not torch.equal(before, _logits(base, family)), site


def test_gemma_has_two_norms_at_each_sublayer():
    sites = Anatomy.of(tiny_config("gemma2")).sites(["attention_norm", "ffn_norm"], layers=1)
    assert [(s.path, s.post) for s in sites] == [
        ("layers.1.input_layernorm", False),
        ("layers.1.post_attention_layernorm", True),
        ("layers.1.pre_feedforward_layernorm", False),
        ("layers.1.post_feedforward_layernorm", True),
    ]
    assert len({s.address for s in sites}) == 4


def test_a_norm_of_both_sublayers_is_given_once():
    anatomy = Anatomy.of(tiny_config("falcon"))
    assert [s.name for s in anatomy.sites(["attention_norm", "ffn_norm"], layers=0)] == ["attention_norm"]
    assert [s.name for s in anatomy.sites(["ffn_norm"], layers=0)] == ["ffn_norm"]


def test_keys_are_narrower_under_grouped_queries():
    query, key = Anatomy.of(tiny_config("qwen3")).sites(["W_q", "W_k"], layers=0)
    assert (query.d_out, key.d_out) == (24, 12)
    assert (query.heads.query, query.heads.key_value, query.heads.width) == (4, 2, 6)


def test_sites_come_layer_by_layer_in_the_order_of_the_names():
    sites = Anatomy.of(tiny_config("bert")).sites(["W_v", "W_q"])
    assert [(s.layer, s.name) for s in sites] == [(0, "W_v"), (0, "W_q"), (1, "W_v"), (1, "W_q")]


def test_cross_attention_can_be_left_out():
    anatomy = Anatomy.of(tiny_config("bart"))
    assert len(anatomy.sites(["W_q"])) == 2 + 3 + 3
    assert len(anatomy.sites(["W_q"], cross=False)) == 2 + 3
    assert {s.address for s in anatomy.sites(["W_q"], layers=0)} == {
        "encoder.layers.0.W_q",
        "decoder.layers.0.W_q",
        "decoder.layers.0.cross.W_q",
    }


def test_the_decoder_of_bart_has_heads_of_its_own():
    encoder, decoder = Anatomy.of(tiny_config("bart")).sites(["attention"], layers=0, cross=False)
    assert (encoder.heads.query, decoder.heads.query, decoder.heads.width) == (4, 2, 8)


def test_both_embeddings_of_an_encoder_decoder_look_tokens_up():
    base = _base("t5")
    sites = base.sites(["embeddings"])
    assert [s.address for s in sites] == ["encoder.embeddings", "decoder.embeddings"]
    seen = [_Inputs(base.module(s)) for s in sites]
    _logits(base, "t5")
    assert all(len(s.seen) == 1 for s in seen)


def test_a_matrix_that_a_family_lacks_is_refused_with_those_it_has():
    with pytest.raises(MethodError, match="bert has no W_gate") as caught:
        Anatomy.of(tiny_config("bert")).sites(["W_q", "W_gate"])
    assert "W_up" in caught.value.problems[0].hint


def test_a_module_name_is_translated():
    with pytest.raises(RecipeError, match="no site is called 'query'") as caught:
        Anatomy.of(tiny_config("bert")).sites(["query"])
    assert caught.value.problems[0].hint == "In bert, 'query' is W_q."


def test_a_fused_module_name_is_translated():
    with pytest.raises(RecipeError) as caught:
        Anatomy.of(tiny_config("gpt2")).sites(["c_attn"])
    assert caught.value.problems[0].hint == "In gpt2, 'c_attn' is W_q and W_k and W_v."


def test_a_mistyped_site_is_named_with_a_suggestion():
    with pytest.raises(RecipeError) as caught:
        Anatomy.of(tiny_config("bert")).sites(["W_Q"])
    assert caught.value.problems[0].hint == "Did you mean 'W_q'?"


def test_heads_that_cannot_be_shared_are_refused():
    with pytest.raises(BaseModelError, match="4 query heads cannot share 3"):
        Anatomy.of(tiny_config("llama") | {"num_key_value_heads": 3}).sites(["W_q"])


def test_an_image_model_has_no_token_embedding():
    with pytest.raises(MethodError, match="vit has no embeddings"):
        Anatomy.of(tiny_config("vit")).sites(["embeddings"])
