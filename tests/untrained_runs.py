"""Runs of methods that answer without training: a tiny base with a tokenizer of a few words, and a few rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny import save_tiny
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from peftcli.pipeline.progress import Silent
from peftcli.pipeline.reading import read
from peftcli.pipeline.training import Finished, TrainOptions, train

WORDS = ["film", "dull", "fine", "good", "bad", "slow", "warm", "cold", "NA", "Review", "Sentiment", "so", "very", "a"]
SPECIAL = ["[PAD]", "<s>", "</s>", "[UNK]", "[CLS]", "[SEP]"]
ROWS = [
    {"text": text, "label": label}
    for text, label in [
        ("a fine film", "pos"),
        ("a dull film", "neg"),
        ("so warm", "pos"),
        ("very slow", "neg"),
        ("very fine", "pos"),
        ("a cold film", "neg"),
        ("a warm film", "pos"),
    ]
]


def save_base(folder: Path, family: str = "llama", task: str | None = "causal-lm") -> Path:
    """Write a tiny checkpoint with its tokenizer."""
    save_tiny(folder, family, task)
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate([*SPECIAL, *WORDS])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


def recipe(folder: Path, base: Path, method: dict[str, Any], rows: list[dict[str, Any]] = ROWS, **data: Any) -> Path:
    """Write a recipe and its rows; the validation rows are all but the first two."""
    for split, part in (("train", rows), ("validation", rows[2:])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    section = {"task": "classification", "train": "train.jsonl", "validation": "validation.jsonl", "max_length": 40}
    document = {"base": {"name": str(base)}, "method": method, "data": section | data}
    (folder / "recipe.yaml").write_text(json.dumps(document))
    return folder / "recipe.yaml"


def run(path: Path, *overrides: str, out: str = "run") -> Finished:
    """Do what a recipe says."""
    return train(read(path, list(overrides)), TrainOptions(out=path.parent / out), Silent())
