"""LLaMA and those built like it: Mistral, Qwen 2 and 3, Gemma 2 and 3, Phi-3."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from peftcli.base.architectures.architecture import Architecture, Piece, StackPlan, Sublayer, linear, table
from peftcli.base.architectures.decoders import LM_HEAD, QKV, SCORE
from peftcli.base.architectures.expressions import Field, derived, field, flag


@dataclass(frozen=True, kw_only=True)
class _Defaults:
    vocabulary: int
    width: int = 4096
    ffn: int
    layers: int = 32
    heads: int = 32
    key_value_heads: int | None = None
    head_width: int | None = None
    positions: int
    tied: bool = False


def _fields(d: _Defaults, **flags: Field) -> dict[str, Field]:
    return {
        "vocabulary": field("vocab_size", default=d.vocabulary),
        "width": field("hidden_size", default=d.width),
        "layers": field("num_hidden_layers", default=d.layers),
        "heads": field("num_attention_heads", default=d.heads),
        "key_value_heads": field("num_key_value_heads", default=d.key_value_heads, otherwise="heads"),
        "head_width": field("head_dim", default=d.head_width, otherwise="width/heads"),
        "query": derived("heads*head_width"),
        "key_value": derived("key_value_heads*head_width"),
        "ffn": field("intermediate_size", default=d.ffn),
        "positions": field("max_position_embeddings", default=d.positions),
        "embedding": derived("width"),
        "tied": flag("tie_word_embeddings", d.tied),
        **flags,
    }


def _attention(qkv: str = "never", out: str = "never") -> tuple[Piece, ...]:
    return (
        linear("self_attn.q_proj", "W_q", "width", "query", qkv),
        linear("self_attn.k_proj", "W_k", "width", "key_value", qkv),
        linear("self_attn.v_proj", "W_v", "width", "key_value", qkv),
        linear("self_attn.o_proj", "W_o", "query", "width", out),
    )


def _ffn(bias: str = "never") -> tuple[Piece, ...]:
    return (
        linear("mlp.gate_proj", "W_gate", "width", "ffn", bias),
        linear("mlp.up_proj", "W_up", "width", "ffn", bias),
        linear("mlp.down_proj", "W_down", "ffn", "width", bias),
    )


def _rms(path: str, site: str = "", width: str = "width", post: bool = False) -> Piece:
    return Piece(path=path, shape=(width,), sites=(site,) if site else (), post=post)


_PER_TOKEN = {"token-classification": (linear("score", "", "width", "labels"),)}
_PRE = (_rms("input_layernorm", "attention_norm"), _rms("post_attention_layernorm", "ffn_norm"))
_SANDWICH = (
    _rms("input_layernorm", "attention_norm"),
    _rms("post_attention_layernorm", "attention_norm", post=True),
    _rms("pre_feedforward_layernorm", "ffn_norm"),
    _rms("post_feedforward_layernorm", "ffn_norm", post=True),
)
_HEAD_NORMS = (_rms("self_attn.q_norm", width="head_width"), _rms("self_attn.k_norm", width="head_width"))


def _llama_like(
    family: str, fields: Mapping[str, Field], pieces: Iterable[Piece], outs: tuple[str, str]
) -> Architecture:
    return Architecture(
        family=family,
        arch="decoder",
        prefixes=("model", ""),
        fields=fields,
        stacks=(
            StackPlan(
                name="decoder",
                block="layers.{i}",
                layers="layers",
                token="embed_tokens",
                key_value_heads="key_value_heads",
                pieces=tuple(pieces),
                sublayers=(
                    Sublayer(name="attention", path="self_attn", out=outs[0]),
                    Sublayer(name="ffn", path="mlp", out=outs[1]),
                ),
            ),
        ),
        around=(table("embed_tokens", "vocabulary", site="embeddings"), _rms("norm")),
        heads={"classification": SCORE, **_PER_TOKEN},
        lm_head=LM_HEAD,
        causal=True,
        positions="positions",
    )


_PLAIN = ("self_attn.o_proj", "mlp.down_proj")
_NORMED = ("post_attention_layernorm", "post_feedforward_layernorm")
_ATTENTION_BIAS = flag("attention_bias", False)

LLAMA = _llama_like(
    "llama",
    _fields(
        _Defaults(vocabulary=32000, ffn=11008, positions=2048),
        attention_bias=_ATTENTION_BIAS,
        mlp_bias=flag("mlp_bias", False),
    ),
    (*_attention("attention_bias", "attention_bias"), *_ffn("mlp_bias"), *_PRE),
    _PLAIN,
)

MISTRAL = _llama_like(
    "mistral",
    _fields(_Defaults(vocabulary=32000, ffn=14336, key_value_heads=8, positions=131072)),
    (*_attention(), *_ffn(), *_PRE),
    _PLAIN,
)

QWEN2 = _llama_like(
    "qwen2",
    _fields(_Defaults(vocabulary=151936, ffn=22016, key_value_heads=32, positions=32768)),
    (*_attention("always"), *_ffn(), *_PRE),
    _PLAIN,
)

QWEN3 = _llama_like(
    "qwen3",
    _fields(
        _Defaults(vocabulary=151936, ffn=22016, key_value_heads=32, head_width=128, positions=32768),
        attention_bias=_ATTENTION_BIAS,
    ),
    (*_attention("attention_bias", "attention_bias"), *_HEAD_NORMS, *_ffn(), *_PRE),
    _PLAIN,
)

_GEMMA = {"width": 2304, "ffn": 9216, "layers": 26, "heads": 8, "key_value_heads": 4, "head_width": 256}

GEMMA2 = _llama_like(
    "gemma2",
    _fields(
        _Defaults(vocabulary=256000, positions=8192, tied=True, **_GEMMA),
        attention_bias=_ATTENTION_BIAS,
    ),
    (*_attention("attention_bias", "attention_bias"), *_ffn(), *_SANDWICH),
    _NORMED,
)

_GEMMA3 = _llama_like(
    "gemma3_text",
    _fields(
        _Defaults(vocabulary=262208, positions=131072, tied=True, **_GEMMA),
        attention_bias=_ATTENTION_BIAS,
    ),
    (*_attention("attention_bias", "attention_bias"), *_HEAD_NORMS, *_ffn(), *_SANDWICH),
    _NORMED,
)
# transformers has no Gemma 3 that labels tokens.
GEMMA3 = replace(_GEMMA3, heads={"classification": SCORE})

PHI3 = _llama_like(
    "phi3",
    _fields(_Defaults(vocabulary=32064, width=3072, ffn=8192, positions=4096)),
    (
        linear("self_attn.o_proj", "W_o", "query", "width", "never"),
        Piece(path="self_attn.qkv_proj", shape=("query+2*key_value", "width"), sites=QKV, layout="concat"),
        Piece(path="mlp.gate_up_proj", shape=("2*ffn", "width"), sites=("W_gate", "W_up"), layout="concat"),
        linear("mlp.down_proj", "W_down", "ffn", "width", "never"),
        *_PRE,
    ),
    ("resid_attn_dropout", "resid_mlp_dropout"),
)
