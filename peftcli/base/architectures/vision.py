"""The vision encoders: ViT, DeiT, and the image side of CLIP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from peftcli.base.architectures.architecture import Architecture, Piece, StackPlan, Sublayer, linear, norm, table
from peftcli.base.architectures.expressions import ALWAYS, Field, derived, field, flag

_PATCHES = "image/patch*image_width/patch_width"


def _fields(patch: int) -> dict[str, Field]:
    return {
        "width": field("hidden_size", default=768),
        "layers": field("num_hidden_layers", default=12),
        "heads": field("num_attention_heads", default=12),
        "head_width": field("head_dim", otherwise="width/heads"),
        "query": derived("heads*head_width"),
        "ffn": field("intermediate_size", default=3072),
        "image": field("image_size", default=224),
        "image_width": Field(keys=("image_size",), default=224, index=1),
        "patch": field("patch_size", default=patch),
        "patch_width": Field(keys=("patch_size",), default=patch, index=1),
        "channels": field("num_channels", default=3),
        "biased": flag("qkv_bias", True),
        "pooled": field("pooler_output_size", otherwise="width"),
    }


def _stack(block: str, attention: str, out: str, norms: tuple[str, str]) -> StackPlan:
    return StackPlan(
        name="vision",
        block=block,
        layers="layers",
        token=None,
        pieces=(
            *(linear(f"{attention}.{n}_proj", f"W_{n}", "width", "query", "biased") for n in "qkv"),
            linear(f"{attention}.{out}", "W_o", "query", "width"),
            norm(norms[0], "attention_norm"),
            linear("mlp.fc1", "W_up", "width", "ffn"),
            linear("mlp.fc2", "W_down", "ffn", "width"),
            norm(norms[1], "ffn_norm"),
        ),
        sublayers=(
            Sublayer(name="attention", path=attention, out=f"{attention}.{out}"),
            Sublayer(name="ffn", path="mlp", out="mlp.fc2"),
        ),
    )


def _head(path: str, when: str = ALWAYS) -> Piece:
    return Piece(path=path, shape=("labels", "width"), bias=ALWAYS, when=when)


def _bare(path: str, *shape: str) -> Piece:
    return Piece(path=path, shape=shape, bare=True)


def _vit_like(family: str, special: tuple[str, ...], fields: Mapping[str, Field]) -> Architecture:
    return Architecture(
        family=family,
        arch="vision",
        prefixes=(family, ""),
        fields=fields,
        stacks=(_stack("layers.{i}", "attention", "o_proj", ("layernorm_before", "layernorm_after")),),
        around=(
            *(_bare(f"embeddings.{name}", "1", "1", "width") for name in special),
            _bare("embeddings.position_embeddings", "1", f"{_PATCHES}+{len(special)}", "width"),
            Piece(
                path="embeddings.patch_embeddings.projection",
                shape=("width", "channels", "patch", "patch_width"),
                bias="always",
            ),
            norm("layernorm"),
            Piece(path="pooler.dense", shape=("pooled", "width"), bias="always", when="bare", optional=True),
        ),
        heads={"classification": (_head("classifier"),)},
        # Checkpoints keep the names that modules had before transformers 5.
        renames=(
            (r"^encoder\.layer\.", "layers."),
            (r"\.attention\.attention\.query\.", ".attention.q_proj."),
            (r"\.attention\.attention\.key\.", ".attention.k_proj."),
            (r"\.attention\.attention\.value\.", ".attention.v_proj."),
            (r"\.attention\.output\.dense\.", ".attention.o_proj."),
            (r"\.intermediate\.dense\.", ".mlp.fc1."),
            (r"\.output\.dense\.", ".mlp.fc2."),
        ),
    )


_TAUGHT = "DeiTForImageClassificationWithTeacher"  # transformers decides by the config's architectures

VIT = _vit_like("vit", ("cls_token",), _fields(16))
DEIT = replace(
    _vit_like(
        "deit",
        ("cls_token", "distillation_token"),
        {**_fields(16), "taught": Field(keys=("architectures",), default=[], holds=_TAUGHT)},
    ),
    heads={
        "classification": (
            _head("classifier", when="!taught"),
            _head("cls_classifier", when="taught"),
            _head("distillation_classifier", when="taught"),
        )
    },
)

CLIP_VISION = Architecture(
    family="clip_vision_model",
    arch="vision",
    prefixes=("vision_model", ""),
    fields={**_fields(32), "biased": derived("1"), "head_width": derived("width/heads")},
    stacks=(_stack("encoder.layers.{i}", "self_attn", "out_proj", ("layer_norm1", "layer_norm2")),),
    around=(
        _bare("embeddings.class_embedding", "width"),
        Piece(path="embeddings.patch_embedding", shape=("width", "channels", "patch", "patch")),
        table("embeddings.position_embedding", "image/patch*image/patch+1"),
        norm("pre_layrnorm"),
        norm("post_layernorm"),
    ),
    heads={},  # transformers has no class that classifies with it alone
)
CLIP = replace(
    CLIP_VISION,
    family="clip",
    section="vision_config",
    heads={"classification": (_head("classifier"),)},
    unread=("post_layernorm",),  # it normalises the class token, and the classifier reads the mean of the patches
)
