"""Prefix tuning against a dense re-computation, against Hugging Face peft, and the published counts."""

from __future__ import annotations

import pytest
import torch
from methods.oracle import beside_peft
from pydantic import ValidationError
from tiny import tiny_base, tiny_batch

from peftcli.delta.delta import attach
from peftcli.errors import MethodError
from peftcli.methods.llama_adapter import LlamaAdapter
from peftcli.methods.lora import Lora
from peftcli.methods.prefix import Prefix

N = 3


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "phi3", "gpt_neox"])
def test_shifted_prefixes_equal_those_of_peft(family):
    from peft import PrefixTuningConfig, TaskType

    def match(delta, theirs):
        (table,) = (p for n, p in theirs.items() if "prompt_encoder" in n)
        yield table, table

    method = Prefix(prefix_length=N, reparameterise=False, positions="shifted")
    base = tiny_base(family, "causal-lm")
    heads = base.sites(("attention",))[0].heads
    config = PrefixTuningConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=N,
        num_layers=2,
        num_attention_heads=heads.key_value,
        token_dim=heads.key_value * heads.width,
    )
    both = beside_peft(family, method, config, match)
    layout = method.peft_layout(both.delta)
    (table,) = (p for n, p in both.theirs.named_parameters() if "prompt_encoder" in n)
    with torch.no_grad():
        table.copy_(layout.tensors["prompt_embeddings"])
    with torch.no_grad():
        plain = tiny_base(family, "causal-lm").network(**both.batch).logits
        moved = (both.logits()[0] - plain).abs().max()
    difference = both.largest_logit_difference()
    print(f"{family:8s} max |difference| of a logit to peft: {difference:.1e}")
    assert difference <= 1e-5
    assert moved > 1e-2


@torch.no_grad()
def test_queries_see_the_prefix_and_all_else_stays():
    """Attention of the first layer of BERT, computed densely with the prefix in front of keys and values."""
    base, plain = tiny_base("bert"), tiny_base("bert")
    delta = attach((Prefix(prefix_length=N, reparameterise=False, layers=0),), base, seed=0)
    ((_, block),) = delta.blocks()
    x = torch.randn(2, 5, 16)
    inner = plain.network.encoder.layer[0].attention.self

    def heads(t):
        return t.view(2, -1, 4, 4).transpose(1, 2)

    q, k, v = heads(inner.query(x)), heads(inner.key(x)), heads(inner.value(x))
    k = torch.cat([block.keys.expand(2, -1, -1, -1), k], 2)
    v = torch.cat([block.values.expand(2, -1, -1, -1), v], 2)
    expected = (torch.softmax(q @ k.transpose(2, 3) / 2, -1) @ v).transpose(1, 2).reshape(2, 5, 16)
    torch.testing.assert_close(block(x)[0], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "gemma2", "mistral", "t5", "bart"])
def test_padding_is_not_attended_to(family):
    """A row alone and the same row padded in a batch give the same."""
    task = "causal-lm" if family in ("gpt2", "llama", "gemma2", "mistral") else None
    base = tiny_base(family, task)
    attach((Prefix(prefix_length=N, reparameterise=False),), base, seed=0)
    batch = tiny_batch("llama")
    extra = {"decoder_input_ids": batch["input_ids"][:, :3]} if family in ("t5", "bart") else {}
    both = base.network(**batch, **extra)
    length = int(batch["attention_mask"][1].sum())
    alone = base.network(
        input_ids=batch["input_ids"][1:, :length],
        attention_mask=batch["attention_mask"][1:, :length],
        **{n: t[1:] for n, t in extra.items()},
    )
    one = both.logits if "logits" in both else both.last_hidden_state
    other = alone.logits if "logits" in alone else alone.last_hidden_state
    torch.testing.assert_close(one[1:, : other.shape[1]], other, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_attention_through_the_interface_is_the_base_bit_for_bit():
    base, plain = tiny_base("llama", "causal-lm"), tiny_base("llama", "causal-lm")
    delta = attach((Prefix(prefix_length=N),), base, seed=0)
    batch = tiny_batch("llama")
    with delta.disabled():
        assert torch.equal(base.network(**batch).logits, plain.network(**batch).logits)


def test_training_through_the_network_counts_what_the_paper_trained():
    d, hidden, n, layers = 1024, 512, 5, 24
    assert n * d + d * hidden + hidden + 2 * layers * d * (hidden + 1) == 25_744_896
    base = tiny_base("gpt2", "causal-lm")
    delta = attach((Prefix(prefix_length=n, hidden=7),), base, seed=0)
    assert delta.size == n * 16 + 16 * 7 + 7 + 2 * 2 * 16 * (7 + 1)
    assert delta.pack().size == Prefix(prefix_length=n).count(base.anatomy)


def flat(**settings):
    return Prefix(prefix_length=N, reparameterise=False, **settings)


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "phi3", "gpt_neox", "gemma2"])
def test_a_prefix_that_starts_as_activations_is_these_tokens_before_the_input(family):
    tokens, batch = [7, 11, 13], tiny_batch(family)
    method = flat(start="activations", start_text="a b c", positions="shifted").prepared(lambda text: tokens)
    base, plain = tiny_base(family, "causal-lm"), tiny_base(family, "causal-lm").network
    attach((method,), base, seed=0)
    before = torch.tensor([tokens, tokens])
    whole = {
        "input_ids": torch.cat([before, batch["input_ids"]], 1),
        "attention_mask": torch.cat([torch.ones_like(before), batch["attention_mask"]], 1),
    }
    real = batch["attention_mask"].bool()
    difference = (base.network(**batch).logits - plain(**whole).logits[:, N:])[real].abs().max()
    print(f"{family:8s} max |difference| of a logit to the base model with the tokens: {difference:.1e}")
    assert difference <= 1e-5


@torch.no_grad()
def test_what_an_encoder_makes_of_the_tokens_is_what_its_prefix_starts_as():
    method = flat(start="activations", start_text="a b").prepared(lambda text: [7, 11])
    base, plain = tiny_base("bert"), tiny_base("bert").network
    block = attach((method,), base, seed=0).blocks()[-1][1]
    inner = plain.encoder.layer[0].attention.self
    x = plain.embeddings(torch.tensor([[7, 11, 7]]))[0]
    assert block.address == "prefix.layers.0.attention"
    torch.testing.assert_close(block.keys, inner.key(x).view(N, 4, 4).transpose(0, 1))
    torch.testing.assert_close(block.values, inner.value(x).view(N, 4, 4).transpose(0, 1))


@torch.no_grad()
@pytest.mark.parametrize("family", ["t5", "bart", "roberta", "mistral"])
def test_activations_are_of_any_tokens_where_no_text_is_given(family):
    def start(seed):
        return attach((flat(start="activations"),), tiny_base(family), seed=seed).state()

    one, same, other = start(0), start(0), start(1)
    assert all(torch.equal(one[n], same[n]) and not torch.equal(one[n], other[n]) for n in one)


@torch.no_grad()
def test_activations_are_those_of_the_base_alone():
    """The other methods of a stack are not filled yet when a prefix asks."""
    method = flat(start="activations", start_text="a").prepared(lambda text: [7])
    alone = attach((method,), tiny_base("llama", "causal-lm"), seed=0).state()
    base = tiny_base("llama", "causal-lm")
    base.network.train()
    stack = attach((Lora(rank=2), method, LlamaAdapter(prompt_length=2)), base, seed=0).state()
    assert base.network.training
    assert all(torch.equal(alone[n], stack[n]) for n in alone)


def test_the_finished_prefix_does_not_ask_for_activations_again():
    method = flat(start="activations", start_text="a").prepared(lambda text: [7])
    delta = attach((method,), tiny_base("gpt2"), seed=0).pack()
    assert delta.methods == (flat(),)
    attach(delta.methods, tiny_base("gpt2"), seed=1).load(delta.state())


def test_activations_want_a_flat_prefix_tokens_and_a_tokenizer_for_text():
    for settings in ({"start": "activations"}, {"start_text": "a"}):
        with pytest.raises(ValidationError, match=r"method\.start"):
            Prefix(**settings)
    with pytest.raises(MethodError, match="no tokenizer"):
        attach((flat(start="activations", start_text="a"),), tiny_base("gpt2"), seed=0)
    with pytest.raises(MethodError, match="cannot read"):
        attach((flat(start="activations"),), tiny_base("vit"), seed=0)


def test_flat_prefixes_have_the_rate_of_p_tuning_v2():
    assert (Prefix().learning_rate, flat().learning_rate) == (5e-5, 5e-3)


@pytest.mark.parametrize("family", ["deberta-v2", "gpt_neo", "bloom", "falcon"])
def test_families_with_attention_code_of_their_own_are_refused(family):
    with pytest.raises(MethodError, match="has no way into the attention"):
        attach((Prefix(),), tiny_base(family), seed=0)
