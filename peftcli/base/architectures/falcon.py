"""Falcon: three ways to lay W_q, W_k and W_v into one matrix, three ways to place the norms."""

from __future__ import annotations

from peftcli.base.architectures.architecture import Architecture, Piece, StackPlan, Sublayer, linear, norm, table
from peftcli.base.architectures.decoders import LM_HEAD, PER_TOKEN, QKV, SCORE
from peftcli.base.architectures.expressions import Field, derived, field, flag

_FUSED = "self_attention.query_key_value"


def _fused(layout: str, when: str) -> Piece:
    return Piece(path=_FUSED, shape=("query+2*key_value", "width"), bias="biased", sites=QKV, layout=layout, when=when)


FALCON = Architecture(
    family="falcon",
    arch="decoder",
    prefixes=("transformer", ""),
    fields={
        "vocabulary": field("vocab_size", default=65024),
        "width": field("hidden_size", "n_embed", default=4544),
        "layers": field("num_hidden_layers", default=32),
        "heads": field("num_attention_heads", default=71),
        "head_width": derived("width/heads"),
        "groups": field("num_kv_heads", otherwise="heads"),
        "new": flag("new_decoder_architecture", False),
        "multi_query": flag("multi_query", True),
        "parallel": flag("parallel_attn", True),
        "norms": Field(keys=("num_ln_in_parallel_attn",), otherwise="1+new"),
        "key_value_heads": Field(cases=(("new", "groups"), ("multi_query", "1"), ("always", "heads"))),
        "query": derived("heads*head_width"),
        "key_value": derived("key_value_heads*head_width"),
        "ffn": field("ffn_hidden_size", otherwise="4*width"),
        "positions": field("max_position_embeddings", default=2048),
        "biased": flag("bias", False),
        "embedding": derived("width"),
        "tied": flag("tie_word_embeddings", True),
    },
    stacks=(
        StackPlan(
            name="decoder",
            block="h.{i}",
            layers="layers",
            token="word_embeddings",
            key_value_heads="key_value_heads",
            pieces=(
                _fused("group_interleaved", "new"),
                _fused("concat", "!new&multi_query"),
                _fused("head_interleaved", "!new&!multi_query"),
                linear("self_attention.dense", "W_o", "width", "width", "biased"),
                linear("mlp.dense_h_to_4h", "W_up", "width", "ffn", "biased"),
                linear("mlp.dense_4h_to_h", "W_down", "ffn", "width", "biased"),
                norm("ln_attn", "attention_norm", when="parallel&norms=2"),
                norm("ln_mlp", "ffn_norm", when="parallel&norms=2"),
                # One norm before both sublayers: the first name is its address.
                Piece(
                    path="input_layernorm",
                    shape=("width",),
                    bias="always",
                    sites=("attention_norm", "ffn_norm"),
                    when="parallel&norms!=2",
                ),
                norm("input_layernorm", "attention_norm", when="!parallel"),
                norm("post_attention_layernorm", "ffn_norm", when="!parallel"),
            ),
            sublayers=(
                Sublayer(name="attention", path="self_attention", out="self_attention.dense"),
                Sublayer(name="ffn", path="mlp", out="mlp.dense_4h_to_h"),
            ),
        ),
    ),
    around=(table("word_embeddings", "vocabulary", site="embeddings"), norm("ln_f")),
    heads={"classification": SCORE, **PER_TOKEN},
    lm_head=LM_HEAD,
    causal=True,
    attention_interface=False,
    positions="positions",
)
