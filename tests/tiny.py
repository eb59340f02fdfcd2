"""Tiny networks of every family, for all tests: two layers, a few numbers wide, nothing fetched."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor
    from transformers import PreTrainedModel

    from peftcli.base.base_model import BaseModel

LABELS = 3

VOCABULARY = 61
POSITIONS = 40

_ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 0,
}
_LLAMA = {**_ENCODER, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
_GPT = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_FALCON = {**_GPT, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_hidden_size": 24}
_T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "d_kv": 6,
    "d_ff": 24,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
_VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "image_size": 8,
    "patch_size": 4,
    "num_channels": 3,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {"model_type": "bert", **_ENCODER},
    "roberta": {"model_type": "roberta", **_ENCODER, "pad_token_id": 1, "type_vocab_size": 1},
    "electra": {"model_type": "electra", **_ENCODER, "embedding_size": 8},
    "deberta-v2": {
        "model_type": "deberta-v2",
        **_ENCODER,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_buckets": 8,
        "type_vocab_size": 0,
    },
    "distilbert": {
        "model_type": "distilbert",
        "vocab_size": VOCABULARY,
        "dim": 16,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 24,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": 0,
    },
    "gpt2": {"model_type": "gpt2", **_GPT, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS},
    "gpt_neo": {
        "model_type": "gpt_neo",
        **_GPT,
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 4,
        "intermediate_size": 24,
        "max_position_embeddings": POSITIONS,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 8,
    },
    "gpt_neox": {"model_type": "gpt_neox", **_ENCODER, "bos_token_id": 1, "eos_token_id": 2},
    "opt": {
        "model_type": "opt",
        **_GPT,
        "hidden_size": 16,
        "word_embed_proj_dim": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 24,
        "max_position_embeddings": POSITIONS,
    },
    "bloom": {"model_type": "bloom", **_GPT, "hidden_size": 16, "n_layer": 2, "n_head": 4},
    "llama": {"model_type": "llama", **_LLAMA},
    "mistral": {"model_type": "mistral", **_LLAMA},
    "qwen2": {"model_type": "qwen2", **_LLAMA},
    "qwen3": {"model_type": "qwen3", **_LLAMA, "head_dim": 6},
    "gemma2": {"model_type": "gemma2", **_LLAMA, "head_dim": 6},
    "gemma3_text": {"model_type": "gemma3_text", **_LLAMA, "head_dim": 6},
    "phi3": {"model_type": "phi3", **_LLAMA},
    "falcon": {"model_type": "falcon", **_FALCON, "multi_query": True},
    "falcon_new": {"model_type": "falcon", **_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon_mha": {"model_type": "falcon", **_FALCON, "multi_query": False, "parallel_attn": False, "bias": True},
    "t5": {"model_type": "t5", **_T5},
    "t5_v1_1": {"model_type": "t5", **_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "bart": {
        "model_type": "bart",
        "vocab_size": VOCABULARY,
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 20,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": None,
    },
    "vit": {"model_type": "vit", **_VISION},
    "deit": {"model_type": "deit", **_VISION},
    "clip_vision_model": {"model_type": "clip_vision_model", **_VISION},
    "clip": {
        "model_type": "clip",
        "vision_config": {"model_type": "clip_vision_model", **_VISION},
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": VOCABULARY,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "max_position_embeddings": POSITIONS,
        },
        "projection_dim": 8,
    },
}

VISION = ("vit", "deit", "clip_vision_model", "clip")
DECODERS = tuple(
    name
    for name, config in FAMILIES.items()
    if name not in VISION
    and config["model_type"] not in ("bert", "roberta", "electra", "deberta-v2", "distilbert", "t5", "bart")
)
ENCODER_DECODERS = ("t5", "t5_v1_1", "bart")
CLASSIFIERS = tuple(name for name in FAMILIES if name not in VISION)
# transformers has no class that labels tokens with these.
TAGGERS = tuple(name for name in CLASSIFIERS if name not in (*ENCODER_DECODERS, "opt", "gemma3_text"))

READERS = ("bert", "roberta", "electra", "deberta-v2", "distilbert")


def tiny_config(family: str) -> dict[str, Any]:
    """Return the config.json of a tiny network."""
    return copy.deepcopy(FAMILIES[family])


def tasks(family: str) -> tuple[str | None, ...]:
    """Return what a family can be built for."""
    if family == "clip":
        return ("classification",)
    if family == "clip_vision_model":
        return (None,)
    if family in ENCODER_DECODERS:
        return (None, "seq2seq", "classification")
    per_token = ("token-classification",) if family in TAGGERS else ()
    per_token += ("span-qa",) if family in READERS else ()
    return (None, *per_token, "classification", *(("causal-lm",) if family in DECODERS else ()))


def label_count(task: str | None, labels: int = LABELS) -> int:
    """Return how many outputs the head of a task has: a span has a start and an end."""
    return 2 if task == "span-qa" else labels


def tiny_network(family: str, task: str | None = None, *, labels: int = LABELS, seed: int = 0) -> PreTrainedModel:
    """Return a network in evaluation mode; no weight keeps its start value, so that none of them hides a mistake."""
    import torch
    from transformers import AutoConfig

    settings = tiny_config(family)
    if task in ("classification", "token-classification", "span-qa"):
        settings["num_labels"] = label_count(task, labels)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    with _quiet():
        torch.manual_seed(seed)
        network = _network_class(family, task)._from_config(config)
    if task == "seq2seq" and not FAMILIES[family].get("tie_word_embeddings", True):
        # transformers ties the head of every T5 that it makes; those of version 1.1 have one of their own.
        network.lm_head.weight = torch.nn.Parameter(network.lm_head.weight.detach().clone())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return network.eval()


def tiny_base(family: str, task: str | None = None, *, labels: int = LABELS, seed: int = 0) -> BaseModel:
    """Return a tiny network as a base model; its classifier is the head."""
    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel

    anatomy = Anatomy.of(tiny_config(family), task=task, labels=label_count(task, labels))
    network = tiny_network(family, task, labels=labels, seed=seed)
    return BaseModel(network, anatomy, head=[t.path.removeprefix("^") for t in anatomy.head_tensors])


def save_tiny(folder: Path, family: str, task: str | None = None, *, labels: int = LABELS, seed: int = 0) -> Path:
    """Write a tiny checkpoint and return its folder."""
    with _quiet():
        tiny_network(family, task, labels=labels, seed=seed).save_pretrained(folder)
    return folder


def tiny_batch(family: str, *, rows: int = 2, length: int = 7, seed: int = 1) -> dict[str, Tensor]:
    """Return inputs for a tiny network: images, or token ids with their mask (the last row is padded)."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    if family in VISION:
        return {"pixel_values": torch.randn(rows, 3, 8, 8, generator=generator)}
    ids = torch.randint(5, VOCABULARY, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    if FAMILIES[family]["model_type"] in ("t5", "bart"):
        # Their classifiers read the last end-of-sequence token and want as many in every row.
        ids[:, -1] = FAMILIES[family]["eos_token_id"]
        return {"input_ids": ids, "attention_mask": mask}
    mask[-1, -2:] = 0
    ids[-1, -2:] = FAMILIES[family]["pad_token_id"]
    return {"input_ids": ids, "attention_mask": mask}


def _network_class(family: str, task: str | None) -> Any:
    import transformers

    vision = {
        "vit": transformers.ViTForImageClassification,
        "deit": transformers.DeiTForImageClassification,
        "clip": transformers.CLIPForImageClassification,
    }
    if task == "classification" and family in vision:
        return vision[family]
    auto = {
        None: transformers.AutoModel,
        "classification": transformers.AutoModelForSequenceClassification,
        "token-classification": transformers.AutoModelForTokenClassification,
        "span-qa": transformers.AutoModelForQuestionAnswering,
        "causal-lm": transformers.AutoModelForCausalLM,
        "seq2seq": transformers.AutoModelForSeq2SeqLM,
    }[task]
    config = type(transformers.AutoConfig.for_model(FAMILIES[family]["model_type"]))
    return auto._model_mapping[config]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
