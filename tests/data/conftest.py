"""Small tokenizers of the two kinds that keep every byte, and what writes rows for a recipe."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from peftcli.recipe.recipe import DataSection

TEXTS = ["the cat sat on the mat", "a dog sat on a log, and then the dog ran", "name[The Vaults], food[pub]: yes"] * 3


@pytest.fixture(scope="session")
def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2's: bytes, no start token of its own, one token for start and end."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<end>", eos_token="<end>")


@pytest.fixture(scope="session")
def sentencepiece() -> PreTrainedTokenizerFast:
    """As LLaMA's: a space before every text, bytes for what is unknown, a start token that it adds itself."""
    special = ["<unk>", "<s>", "</s>"]
    pieces = special + [f"<0x{byte:02X}>" for byte in range(256)] + ["\u2581", *"abcdefghijklmnopqrstuvwxyz.,[]:"]
    merges = [("t", "h"), ("th", "e"), ("\u2581", "the"), ("\u2581", "d"), ("o", "g"), ("\u2581d", "og")]
    pieces += ["".join(pair) for pair in merges]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="session")
def pairs() -> PreTrainedTokenizerFast:
    """As BERT's: words, special tokens around them, token types."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(set(" ".join(TEXTS).split()))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return what writes rows to a file of JSON Lines and returns its path."""

    def write_rows(rows: Sequence[dict[str, Any]], name: str = "train.jsonl") -> str:
        file = tmp_path / name
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(file)

    return write_rows


@pytest.fixture
def section(write: Write) -> Callable[..., DataSection]:
    """Return what makes the data section of a recipe out of rows."""

    def make(task: str, train: Sequence[dict[str, Any]], **settings: Any) -> DataSection:
        for split in ("validation", "test"):
            if isinstance(settings.get(split), list):
                settings[split] = write(settings[split], f"{split}.jsonl")
        return DataSection(task=task, train=write(train), **settings)

    return make
