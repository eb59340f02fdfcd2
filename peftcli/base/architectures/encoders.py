"""The encoders: BERT and those built like it, DistilBERT, DeBERTa."""

from __future__ import annotations

from collections.abc import Mapping

from peftcli.base.architectures.architecture import (
    Architecture,
    Piece,
    StackPlan,
    Sublayer,
    linear,
    norm,
    table,
)
from peftcli.base.architectures.expressions import Field, derived, field


def _bert_fields(*, vocabulary: int = 30522, width: int = 768, heads: int = 12, ffn: int = 3072) -> dict[str, Field]:
    return {
        "vocabulary": field("vocab_size", default=vocabulary),
        "width": field("hidden_size", default=width),
        "layers": field("num_hidden_layers", default=12),
        "heads": field("num_attention_heads", default=heads),
        "head_width": derived("width/heads"),
        "query": derived("heads*head_width"),
        "ffn": field("intermediate_size", default=ffn),
        "positions": field("max_position_embeddings", default=512),
        "types": field("type_vocab_size", default=2, minimum=0),
        "embedding": derived("width"),
    }


def _bert_stack(q: str = "query", k: str = "key", v: str = "value", *extra: Piece) -> StackPlan:
    return StackPlan(
        name="encoder",
        block="encoder.layer.{i}",
        layers="layers",
        token="embeddings.word_embeddings",
        pieces=(
            linear(f"attention.self.{q}", "W_q", "width", "query"),
            linear(f"attention.self.{k}", "W_k", "width", "query"),
            linear(f"attention.self.{v}", "W_v", "width", "query"),
            *extra,
            linear("attention.output.dense", "W_o", "query", "width"),
            norm("attention.output.LayerNorm", "attention_norm"),
            linear("intermediate.dense", "W_up", "width", "ffn"),
            linear("output.dense", "W_down", "ffn", "width"),
            norm("output.LayerNorm", "ffn_norm"),
        ),
        sublayers=(
            Sublayer(name="attention", path="attention.self", out="attention.output.dropout"),
            Sublayer(name="ffn", path="intermediate", out="output.dropout"),
        ),
    )


def _embeddings(types: str = "always", positions: str = "always") -> tuple[Piece, ...]:
    return (
        table("embeddings.word_embeddings", "vocabulary", "embedding", site="embeddings"),
        table("embeddings.position_embeddings", "positions", "embedding", when=positions),
        table("embeddings.token_type_embeddings", "types", "embedding", when=types),
    )


def _two_layer_head(first: str, second: str) -> tuple[Piece, ...]:
    return linear(first, "", "width", "width"), linear(second, "", "width", "labels")


def _pooler(when: str) -> Piece:
    return Piece(path="pooler.dense", shape=("width", "width"), bias="always", when=when, optional=True)


_PER_TOKEN = {
    "token-classification": (linear("classifier", "", "width", "labels"),),
    "span-qa": (linear("qa_outputs", "", "width", "labels"),),
}


def _bert_like(
    family: str, fields: Mapping[str, Field], around: tuple[Piece, ...], head: tuple[Piece, ...], positions: str
) -> Architecture:
    return Architecture(
        family=family,
        arch="encoder",
        prefixes=(family, ""),
        fields=fields,
        stacks=(_bert_stack(),),
        around=(*_embeddings(), *around),
        heads={"classification": head, **_PER_TOKEN},
        pre_norm="never",
        positions=positions,
    )


BERT = _bert_like(
    "bert",
    _bert_fields(),
    (norm("embeddings.LayerNorm"), _pooler("!per_token")),
    (linear("classifier", "", "width", "labels"),),
    "positions",
)

ROBERTA = _bert_like(
    "roberta",
    {**_bert_fields(vocabulary=50265), "pad": field("pad_token_id", default=1, minimum=0)},
    (norm("embeddings.LayerNorm"), _pooler("bare")),
    _two_layer_head("classifier.dense", "classifier.out_proj"),
    "positions-pad-1",
)

ELECTRA = _bert_like(
    "electra",
    {
        **_bert_fields(width=256, heads=4, ffn=1024),
        "embedding": field("embedding_size", default=128),
    },
    (
        norm("embeddings.LayerNorm", width="embedding"),
        Piece(path="embeddings_project", shape=("width", "embedding"), bias="always", when="embedding!=width"),
    ),
    _two_layer_head("classifier.dense", "classifier.out_proj"),
    "positions",
)

_SEPARATE = "relative&!share_att_key"

DEBERTA_V2 = Architecture(
    family="deberta-v2",
    arch="encoder",
    prefixes=("deberta", ""),
    fields={
        **_bert_fields(vocabulary=128100, width=1536, heads=24, ffn=6144),
        "layers": field("num_hidden_layers", default=24),
        "types": field("type_vocab_size", default=0, minimum=0),
        "head_width": field("attention_head_size", otherwise="width/heads"),
        "embedding": field("embedding_size", otherwise="width"),
        "relative": field("relative_attention", default=False, minimum=0),
        "share_att_key": field("share_att_key", default=False, minimum=0),
        "content_to_position": Field(keys=("pos_att_type",), holds="c2p"),
        "position_to_content": Field(keys=("pos_att_type",), holds="p2c"),
        "absolute": field("position_biased_input", default=True, minimum=0),
        "furthest": field("max_relative_positions", default=-1, minimum=-1),
        "buckets": field("position_buckets", default=-1, minimum=-1),
        "span": Field(cases=(("buckets>0", "buckets"), ("furthest>0", "furthest"), ("always", "positions"))),
        "norm_relative": Field(keys=("norm_rel_ebd",), default="none", holds="layer_norm"),
        "kernel": field("conv_kernel_size", default=0, minimum=0),
        "groups": field("conv_groups", default=1),
        "pooled": field("pooler_hidden_size", otherwise="width"),
    },
    stacks=(
        _bert_stack(
            "query_proj",
            "key_proj",
            "value_proj",
            Piece(
                path="attention.self.pos_key_proj",
                shape=("query", "width"),
                bias="always",
                when=f"{_SEPARATE}&content_to_position",
            ),
            Piece(
                path="attention.self.pos_query_proj",
                shape=("query", "width"),
                bias="always",
                when=f"{_SEPARATE}&position_to_content",
            ),
        ),
    ),
    around=(
        *_embeddings(types="types", positions="absolute"),
        norm("embeddings.LayerNorm"),
        Piece(path="embeddings.embed_proj", shape=("width", "embedding"), when="embedding!=width"),
        table("encoder.rel_embeddings", "2*span", when="relative"),
        norm("encoder.LayerNorm", when="norm_relative"),
        Piece(path="encoder.conv.conv", shape=("width", "width/groups", "kernel"), bias="always", when="kernel"),
        norm("encoder.conv.LayerNorm", when="kernel"),
    ),
    heads={
        "classification": (
            linear("pooler.dense", "", "pooled", "pooled"),
            linear("classifier", "", "pooled", "labels"),
        ),
        **_PER_TOKEN,
    },
    pre_norm="never",
    attention_interface=False,
    positions="positions",
)

DISTILBERT = Architecture(
    family="distilbert",
    arch="encoder",
    prefixes=("distilbert", ""),
    fields={
        "vocabulary": field("vocab_size", default=30522),
        "width": field("dim", "hidden_size", default=768),
        "layers": field("n_layers", "num_hidden_layers", default=6),
        "heads": field("n_heads", "num_attention_heads", default=12),
        "head_width": derived("width/heads"),
        "ffn": field("hidden_dim", default=3072),
        "positions": field("max_position_embeddings", default=512),
        "embedding": derived("width"),
    },
    stacks=(
        StackPlan(
            name="encoder",
            block="transformer.layer.{i}",
            layers="layers",
            token="embeddings.word_embeddings",
            pieces=(
                linear("attention.q_lin", "W_q", "width", "width"),
                linear("attention.k_lin", "W_k", "width", "width"),
                linear("attention.v_lin", "W_v", "width", "width"),
                linear("attention.out_lin", "W_o", "width", "width"),
                norm("sa_layer_norm", "attention_norm"),
                linear("ffn.lin1", "W_up", "width", "ffn"),
                linear("ffn.lin2", "W_down", "ffn", "width"),
                norm("output_layer_norm", "ffn_norm"),
            ),
            sublayers=(
                Sublayer(name="attention", path="attention", out="attention.out_lin"),
                Sublayer(name="ffn", path="ffn", out="ffn.dropout"),
            ),
        ),
    ),
    around=(*_embeddings(types="never"), norm("embeddings.LayerNorm")),
    heads={"classification": _two_layer_head("pre_classifier", "classifier"), **_PER_TOKEN},
    pre_norm="never",
    positions="positions",
)
