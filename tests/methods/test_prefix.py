"""Prefix tuning against a dense re-computation, against Hugging Face peft, and the published counts."""

from __future__ import annotations

import pytest
import torch
from methods.oracle import beside_peft
from tiny import tiny_base, tiny_batch

from peftcli.base.anatomy import Anatomy
from peftcli.delta.delta import attach
from peftcli.errors import MethodError
from peftcli.methods.prefix import Prefix

MEDIUM = {"model_type": "gpt2", "n_layer": 24, "n_embd": 1024, "n_head": 16}
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


@pytest.mark.parametrize(("length", "expected"), [(5, 245_760), (10, 491_520)])
def test_the_count_is_what_is_kept(length, expected):
    assert Prefix(prefix_length=length).count(Anatomy.of(MEDIUM)) == expected


def test_training_through_the_network_counts_what_the_paper_trained():
    d, hidden, n, layers = 1024, 512, 5, 24
    assert n * d + d * hidden + hidden + 2 * layers * d * (hidden + 1) == 25_744_896
    base = tiny_base("gpt2", "causal-lm")
    delta = attach((Prefix(prefix_length=n, hidden=7),), base, seed=0)
    assert delta.size == n * 16 + 16 * 7 + 7 + 2 * 2 * 16 * (7 + 1)
    assert delta.pack().size == Prefix(prefix_length=n).count(base.anatomy)


@pytest.mark.parametrize("family", ["deberta-v2", "gpt_neo", "bloom", "falcon"])
def test_families_with_attention_code_of_their_own_are_refused(family):
    with pytest.raises(MethodError, match="has no way into the attention"):
        attach((Prefix(),), tiny_base(family), seed=0)
