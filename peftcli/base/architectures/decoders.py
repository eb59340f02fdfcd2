"""The decoders: GPT-2, GPT-Neo, GPT-NeoX, OPT, BLOOM, Falcon. Those built like LLaMA are in llamas.py."""

from __future__ import annotations

from peftcli.base.architectures.architecture import (
    Architecture,
    Piece,
    StackPlan,
    Sublayer,
    linear,
    norm,
    table,
)
from peftcli.base.architectures.expressions import derived, field, flag

QKV = ("W_q", "W_k", "W_v")
LM_HEAD = Piece(path="lm_head", shape=("vocabulary", "embedding"), when="!tied")
SCORE = (linear("score", "", "embedding", "labels", "never"),)
PER_TOKEN = {"token-classification": (linear("classifier", "", "width", "labels"),)}


def _conv1d(path: str, sites: tuple[str, ...], d_in: str, d_out: str) -> Piece:
    layout = "concat" if len(sites) > 1 else ""
    return Piece(path=path, shape=(d_in, d_out), bias="always", sites=sites, layout=layout, transposed=True)


def _fused(path: str, layout: str, d_out: str, bias: str, when: str = "always") -> Piece:
    return Piece(path=path, shape=(d_out, "width"), bias=bias, sites=QKV, layout=layout, when=when)


GPT2 = Architecture(
    family="gpt2",
    arch="decoder",
    prefixes=("transformer", ""),
    fields={
        "vocabulary": field("vocab_size", default=50257),
        "width": field("n_embd", "hidden_size", default=768),
        "layers": field("n_layer", "num_hidden_layers", default=12),
        "heads": field("n_head", "num_attention_heads", default=12),
        "head_width": derived("width/heads"),
        "ffn": field("n_inner", otherwise="4*width"),
        "positions": field("n_positions", "max_position_embeddings", default=1024),
        "embedding": derived("width"),
        "tied": flag("tie_word_embeddings", True),
    },
    stacks=(
        StackPlan(
            name="decoder",
            block="h.{i}",
            layers="layers",
            token="wte",
            pieces=(
                norm("ln_1", "attention_norm"),
                _conv1d("attn.c_attn", QKV, "width", "3*width"),
                _conv1d("attn.c_proj", ("W_o",), "width", "width"),
                norm("ln_2", "ffn_norm"),
                _conv1d("mlp.c_fc", ("W_up",), "width", "ffn"),
                _conv1d("mlp.c_proj", ("W_down",), "ffn", "width"),
            ),
            sublayers=(
                Sublayer(name="attention", path="attn", out="attn.resid_dropout"),
                Sublayer(name="ffn", path="mlp", out="mlp.dropout"),
            ),
        ),
    ),
    around=(table("wte", "vocabulary", site="embeddings"), table("wpe", "positions"), norm("ln_f")),
    heads={"classification": SCORE, **PER_TOKEN},
    lm_head=LM_HEAD,
    causal=True,
    positions="positions",
)

GPT_NEO = Architecture(
    family="gpt_neo",
    arch="decoder",
    prefixes=("transformer", ""),
    fields={
        "vocabulary": field("vocab_size", default=50257),
        "width": field("hidden_size", default=2048),
        "layers": field("num_layers", "num_hidden_layers", default=24),
        "heads": field("num_heads", "num_attention_heads", default=16),
        "head_width": derived("width/heads"),
        "ffn": field("intermediate_size", otherwise="4*width"),
        "positions": field("max_position_embeddings", default=2048),
        "embedding": derived("width"),
        "tied": flag("tie_word_embeddings", True),
    },
    stacks=(
        StackPlan(
            name="decoder",
            block="h.{i}",
            layers="layers",
            token="wte",
            pieces=(
                norm("ln_1", "attention_norm"),
                *(linear(f"attn.attention.{n}_proj", f"W_{n}", "width", "width", "never") for n in "qkv"),
                linear("attn.attention.out_proj", "W_o", "width", "width"),
                norm("ln_2", "ffn_norm"),
                linear("mlp.c_fc", "W_up", "width", "ffn"),
                linear("mlp.c_proj", "W_down", "ffn", "width"),
            ),
            sublayers=(
                Sublayer(name="attention", path="attn.attention", out="attn.attention.resid_dropout"),
                Sublayer(name="ffn", path="mlp", out="mlp.dropout"),
            ),
        ),
    ),
    around=(table("wte", "vocabulary", site="embeddings"), table("wpe", "positions"), norm("ln_f")),
    heads={"classification": SCORE, **PER_TOKEN},
    lm_head=LM_HEAD,
    causal=True,
    attention_interface=False,
    positions="positions",
)

GPT_NEOX = Architecture(
    family="gpt_neox",
    arch="decoder",
    prefixes=("gpt_neox", ""),
    fields={
        "vocabulary": field("vocab_size", default=50432),
        "width": field("hidden_size", default=6144),
        "layers": field("num_hidden_layers", default=44),
        "heads": field("num_attention_heads", default=64),
        "head_width": derived("width/heads"),
        "ffn": field("intermediate_size", default=24576),
        "positions": field("max_position_embeddings", default=2048),
        "embedding": derived("width"),
        "attention_bias": flag("attention_bias", True),
        "tied": flag("tie_word_embeddings", False),
    },
    stacks=(
        StackPlan(
            name="decoder",
            block="layers.{i}",
            layers="layers",
            token="embed_in",
            pieces=(
                norm("input_layernorm", "attention_norm"),
                norm("post_attention_layernorm", "ffn_norm"),
                _fused("attention.query_key_value", "head_interleaved", "3*width", "attention_bias"),
                linear("attention.dense", "W_o", "width", "width", "attention_bias"),
                linear("mlp.dense_h_to_4h", "W_up", "width", "ffn"),
                linear("mlp.dense_4h_to_h", "W_down", "ffn", "width"),
            ),
            sublayers=(
                Sublayer(name="attention", path="attention", out="post_attention_dropout"),
                Sublayer(name="ffn", path="mlp", out="post_mlp_dropout"),
            ),
        ),
    ),
    around=(table("embed_in", "vocabulary", site="embeddings"), norm("final_layer_norm")),
    heads={"classification": SCORE, **PER_TOKEN},
    lm_head=LM_HEAD,
    causal=True,
    positions="positions",
    renames=((r"^embed_out\.", "lm_head."),),
)

OPT = Architecture(
    family="opt",
    arch="decoder",
    prefixes=("model.decoder", "decoder"),
    fields={
        "vocabulary": field("vocab_size", default=50272),
        "width": field("hidden_size", default=768),
        "embedding": field("word_embed_proj_dim", otherwise="width"),
        "layers": field("num_hidden_layers", default=12),
        "heads": field("num_attention_heads", default=12),
        "head_width": derived("width/heads"),
        "ffn": field("ffn_dim", default=3072),
        "positions": field("max_position_embeddings", default=2048),
        "biased": flag("enable_bias", True),
        "affine": flag("layer_norm_elementwise_affine", True),
        "before": flag("do_layer_norm_before", True),
        "removed": flag("_remove_final_layer_norm", False),
        "tied": flag("tie_word_embeddings", True),
    },
    stacks=(
        StackPlan(
            name="decoder",
            block="layers.{i}",
            layers="layers",
            token="embed_tokens",
            pieces=(
                *(linear(f"self_attn.{n}_proj", f"W_{n}", "width", "width", "biased") for n in "qkv"),
                linear("self_attn.out_proj", "W_o", "width", "width", "biased"),
                norm("self_attn_layer_norm", "attention_norm", when="affine"),
                linear("fc1", "W_up", "width", "ffn", "biased"),
                linear("fc2", "W_down", "ffn", "width", "biased"),
                norm("final_layer_norm", "ffn_norm", when="affine"),
            ),
            sublayers=(
                Sublayer(name="attention", path="self_attn", out="self_attn.out_proj"),
                Sublayer(name="ffn", path="fc1", out="fc2"),
            ),
        ),
    ),
    around=(
        table("embed_tokens", "vocabulary", "embedding", site="embeddings"),
        table("embed_positions", "positions+2"),
        Piece(path="project_in", shape=("width", "embedding"), when="embedding!=width"),
        Piece(path="project_out", shape=("embedding", "width"), when="embedding!=width"),
        norm("final_layer_norm", when="before&!removed&affine"),
    ),
    heads={"classification": SCORE},
    lm_head=LM_HEAD,
    causal=True,
    pre_norm="before",
    positions="positions",
)

_BLOOM_SUBLAYERS = (
    Sublayer(name="attention", path="self_attention", out="self_attention.dense"),
    # The mlp module takes the residual as well and adds it itself: its first projection takes the input alone.
    Sublayer(name="ffn", path="mlp.dense_h_to_4h", out="mlp.dense_4h_to_h"),
)

BLOOM = Architecture(
    family="bloom",
    arch="decoder",
    prefixes=("transformer", ""),
    fields={
        "vocabulary": field("vocab_size", default=250880),
        "width": field("hidden_size", "n_embed", default=64),
        "layers": field("n_layer", "num_hidden_layers", default=2),
        "heads": field("n_head", "num_attention_heads", default=8),
        "head_width": derived("width/heads"),
        "ffn": derived("4*width"),
        "embedding": derived("width"),
        "tied": flag("tie_word_embeddings", True),
    },
    stacks=(
        StackPlan(
            name="decoder",
            block="h.{i}",
            layers="layers",
            token="word_embeddings",
            pieces=(
                norm("input_layernorm", "attention_norm"),
                _fused("self_attention.query_key_value", "head_interleaved", "3*width", "always"),
                linear("self_attention.dense", "W_o", "width", "width"),
                norm("post_attention_layernorm", "ffn_norm"),
                linear("mlp.dense_h_to_4h", "W_up", "width", "ffn"),
                linear("mlp.dense_4h_to_h", "W_down", "ffn", "width"),
            ),
            sublayers=_BLOOM_SUBLAYERS,
        ),
    ),
    around=(
        table("word_embeddings", "vocabulary", site="embeddings"),
        norm("word_embeddings_layernorm"),
        norm("ln_f"),
    ),
    heads={"classification": SCORE, **PER_TOKEN},
    lm_head=LM_HEAD,
    causal=True,
    attention_interface=False,
)
