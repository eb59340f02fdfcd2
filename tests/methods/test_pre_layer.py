"""PreLayer against a layer by layer re-computation."""

from __future__ import annotations

import pytest
import torch
from tiny import VOCABULARY, tiny_base, tiny_batch

from peftcli.delta.delta import attach
from peftcli.errors import MethodError
from peftcli.methods.lora import Lora
from peftcli.methods.pre_layer import PreLayer

PREFIX, INFIX = 3, 2
IDS = torch.tensor([[*range(VOCABULARY, VOCABULARY + 3), 5, 6, 7, VOCABULARY + 3, VOCABULARY + 4, 8, 9]])
AT = torch.tensor([0, 1, 2, 6, 7])  # where the virtual tokens stand


def adapted(family, task=None, **settings):
    """Return the network and the vectors of each layer, of deviation 1."""
    base = tiny_base(family, task)
    delta = attach((PreLayer(prefix_length=PREFIX, **settings),), base, seed=0)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in delta.parameters.values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return base.network, [delta.parameters[f"pre_layer.layers.{i}.input.vectors"] for i in range(2)]


def by_layers(layers, hidden, vectors, at, **inputs):
    """Run the layers one by one, each with its vectors in place of what came from below."""
    for layer, trained in zip(layers, vectors, strict=True):
        hidden = hidden.clone()
        hidden[:, at] = trained
        out = layer(hidden, **inputs)
        hidden = out[0] if isinstance(out, tuple) else out
    return hidden


@torch.no_grad()
def test_every_layer_of_gpt2_reads_the_vectors_and_the_last_one_s_output_stays():
    network, vectors = adapted("gpt2", "causal-lm", infix_length=INFIX)
    plain = tiny_base("gpt2", "causal-lm").network
    body = plain.transformer
    real = IDS.masked_fill(IDS >= VOCABULARY, 0)
    hidden = by_layers(body.h, body.wte(real) + body.wpe(torch.arange(10)), vectors, AT)
    expected = plain.lm_head(body.ln_f(hidden))
    torch.testing.assert_close(network(IDS).logits, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_llama_rotates_the_vectors_keys_to_their_positions():
    network, vectors = adapted("llama", "causal-lm", infix_length=INFIX)
    plain = tiny_base("llama", "causal-lm").network
    body = plain.model
    hidden = body.embed_tokens(IDS.masked_fill(IDS >= VOCABULARY, 0))
    rotation = body.rotary_emb(hidden, torch.arange(10)[None])
    hidden = by_layers(body.layers, hidden, vectors, AT, position_embeddings=rotation)
    torch.testing.assert_close(network(IDS).logits, plain.lm_head(body.norm(hidden)), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_an_encoder_reads_them_after_its_first_token():
    network, vectors = adapted("bert")
    body = tiny_base("bert").network
    ids = torch.tensor([[5, *range(VOCABULARY, VOCABULARY + PREFIX), 6, 7]])
    hidden = body.embeddings(ids.masked_fill(ids >= VOCABULARY, 0))
    expected = by_layers(body.encoder.layer, hidden, vectors, torch.arange(1, 1 + PREFIX))
    torch.testing.assert_close(network(ids).last_hidden_state, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_rows_without_virtual_tokens_are_the_base_bit_for_bit():
    network, _ = adapted("llama", "causal-lm")
    batch = tiny_batch("llama")
    assert torch.equal(network(**batch).logits, tiny_base("llama", "causal-lm").network(**batch).logits)


@torch.no_grad()
def test_what_a_lower_layer_makes_of_a_vector_goes_no_further():
    """The infix of the first layer reaches the tokens after it, and neither those before nor the infix above."""
    network, vectors = adapted("gpt2", "causal-lm", infix_length=INFIX)
    before = network(IDS).logits
    vectors[0][PREFIX:] *= torch.linspace(-1, 1, 16)
    moved = (network(IDS).logits - before).abs().amax(-1)[0]
    assert moved[:8].max() == 0
    assert moved[8:].min() > 1e-3


@torch.no_grad()
def test_it_stacks_with_weight_deltas_inside_its_layers():
    base = tiny_base("llama", "causal-lm")
    delta = attach((Lora(rank=2), PreLayer(prefix_length=PREFIX, infix_length=INFIX)), base, seed=0)
    names = {address.split(".")[0] for address in delta.parameters}
    alone, vectors = adapted("llama", "causal-lm", infix_length=INFIX)
    for i, trained in enumerate(vectors):
        delta.parameters[f"pre_layer.layers.{i}.input.vectors"].copy_(trained)
    assert names == {"lora", "pre_layer"}
    assert torch.equal(base.network(IDS).logits, alone(IDS).logits)


@pytest.mark.parametrize(
    ("family", "settings", "why"),
    [
        ("t5", {}, "one stack"),
        ("vit", {}, "token embeddings"),
        ("bert", {"infix_length": 2}, "no decoder"),
        ("gpt2", {"prefix_length": 32}, "40 positions"),
    ],
)
def test_where_it_has_no_meaning_it_is_refused(family, settings, why):
    with pytest.raises(MethodError, match=why):
        attach((PreLayer(**settings),), tiny_base(family), seed=0)
