"""The encoder-decoders: T5 (also v1.1, gated) and BART."""

from __future__ import annotations

from dataclasses import replace

from peftcli.base.architectures.architecture import Architecture, Piece, StackPlan, Sublayer, linear, norm, table
from peftcli.base.architectures.decoders import LM_HEAD
from peftcli.base.architectures.expressions import ALWAYS, Field, derived, field, flag
from peftcli.base.sites import Stack

_HEAD = (
    linear("classification_head.dense", "", "width", "width"),
    linear("classification_head.out_proj", "", "width", "labels"),
)


def _t5_attention(module: str, cross: bool) -> tuple[Piece, ...]:
    layer = module.rpartition(".")[0]
    pieces = (
        *(linear(f"{module}.{n}", f"W_{n}", "width", "query", "never") for n in "qkv"),
        linear(f"{module}.o", "W_o", "query", "width", "never"),
        norm(f"{layer}.layer_norm", "attention_norm", bias="never"),
    )
    return tuple(replace(p, cross=cross) for p in pieces)


def _t5_ffn(layer: str) -> tuple[Piece, ...]:
    dense = f"{layer}.DenseReluDense"
    return (
        replace(linear(f"{dense}.wi", "W_up", "width", "ffn", "never"), when="!gated"),
        replace(linear(f"{dense}.wi_0", "W_gate", "width", "ffn", "never"), when="gated"),
        replace(linear(f"{dense}.wi_1", "W_up", "width", "ffn", "never"), when="gated"),
        linear(f"{dense}.wo", "W_down", "ffn", "width", "never"),
        norm(f"{layer}.layer_norm", "ffn_norm", bias="never"),
    )


def _t5_stack(name: Stack, layers: str, ffn: str) -> StackPlan:
    has_cross = ffn == "layer.2"
    cross = _t5_attention("layer.1.EncDecAttention", True) if has_cross else ()
    crossing = (Sublayer(name="attention", path="layer.1.EncDecAttention", out="layer.1.dropout", cross=True),)
    return StackPlan(
        name=name,
        block=name + ".block.{i}",
        layers=layers,
        token=f"{name}.embed_tokens",
        pieces=(
            *_t5_attention("layer.0.SelfAttention", False),
            Piece(path="layer.0.SelfAttention.relative_attention_bias", shape=("buckets", "heads"), first=True),
            *cross,
            *_t5_ffn(ffn),
        ),
        sublayers=(
            Sublayer(name="attention", path="layer.0.SelfAttention", out="layer.0.dropout"),
            *(crossing if has_cross else ()),
            Sublayer(name="ffn", path=f"{ffn}.DenseReluDense", out=f"{ffn}.dropout"),
        ),
    )


T5 = Architecture(
    family="t5",
    arch="encoder-decoder",
    prefixes=("transformer", ""),
    fields={
        "vocabulary": field("vocab_size", default=32128),
        "width": field("d_model", "hidden_size", default=512),
        "head_width": field("d_kv", "head_dim", default=64),
        "ffn": field("d_ff", default=2048),
        "layers": field("num_layers", "num_hidden_layers", default=6),
        "decoder_layers": field("num_decoder_layers", otherwise="layers"),
        "heads": field("num_heads", "num_attention_heads", default=8),
        "query": derived("heads*head_width"),
        "buckets": field("relative_attention_num_buckets", default=32),
        "gated": Field(keys=("feed_forward_proj",), default="relu", holds="gated"),
        "embedding": derived("width"),
        # v1.1 says false here; once transformers has written its config anew, only the other says it.
        "tie": flag("tie_word_embeddings", True),
        "scaled": flag("scale_decoder_outputs", True),
        "tied": Field(cases=(("tie&scaled", "1"), (ALWAYS, "0"))),
    },
    stacks=(_t5_stack("encoder", "layers", "layer.1"), _t5_stack("decoder", "decoder_layers", "layer.2")),
    around=(
        table("shared", "vocabulary", site="embeddings"),
        norm("encoder.final_layer_norm", bias="never"),
        norm("decoder.final_layer_norm", bias="never"),
    ),
    heads={"classification": _HEAD},
    lm_head=LM_HEAD,
    causal=True,
)


def _bart_attention(module: str, cross: bool) -> tuple[Piece, ...]:
    pieces = (
        *(linear(f"{module}.{n}_proj", f"W_{n}", "width", "width") for n in "qkv"),
        linear(f"{module}.out_proj", "W_o", "width", "width"),
        norm(f"{module}_layer_norm", "attention_norm"),
    )
    return tuple(replace(p, cross=cross) for p in pieces)


def _bart_stack(name: Stack, cross: bool) -> StackPlan:
    crossing = (Sublayer(name="attention", path="encoder_attn", out="encoder_attn.out_proj", cross=True),)
    return StackPlan(
        name=name,
        block=name + ".layers.{i}",
        layers=f"{name}_layers",
        token=f"{name}.embed_tokens",
        heads=f"{name}_heads",
        key_value_heads=f"{name}_heads",
        head_width=f"width/{name}_heads",
        pieces=(
            *_bart_attention("self_attn", False),
            *(_bart_attention("encoder_attn", True) if cross else ()),
            linear("fc1", "W_up", "width", f"{name}_ffn"),
            linear("fc2", "W_down", f"{name}_ffn", "width"),
            norm("final_layer_norm", "ffn_norm"),
        ),
        sublayers=(
            Sublayer(name="attention", path="self_attn", out="self_attn.out_proj"),
            *(crossing if cross else ()),
            Sublayer(name="ffn", path="fc1", out="fc2"),
        ),
    )


BART = Architecture(
    family="bart",
    arch="encoder-decoder",
    prefixes=("model", ""),
    fields={
        "vocabulary": field("vocab_size", default=50265),
        "width": field("d_model", "hidden_size", default=1024),
        "encoder_layers": field("encoder_layers", "num_hidden_layers", default=12),
        "decoder_layers": field("decoder_layers", default=12),
        "encoder_heads": field("encoder_attention_heads", "num_attention_heads", default=16),
        "decoder_heads": field("decoder_attention_heads", default=16),
        "encoder_ffn": field("encoder_ffn_dim", default=4096),
        "decoder_ffn": field("decoder_ffn_dim", default=4096),
        "positions": field("max_position_embeddings", default=1024),
        "embedding": derived("width"),
        "tied": flag("tie_word_embeddings", True),
    },
    stacks=(_bart_stack("encoder", False), _bart_stack("decoder", True)),
    around=(
        table("shared", "vocabulary", site="embeddings"),
        table("encoder.embed_positions", "positions+2"),
        norm("encoder.layernorm_embedding"),
        table("decoder.embed_positions", "positions+2"),
        norm("decoder.layernorm_embedding"),
    ),
    heads={"classification": _HEAD},
    lm_head=LM_HEAD,
    causal=True,
    pre_norm="never",
    positions="positions",
)
