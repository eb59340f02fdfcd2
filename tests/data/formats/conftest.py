"""Tokenizers of three kinds, and rows of every format."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from peftcli.data.tables import DataFile, Row, Table

TEXTS = ["the cat sat on the mat", "system user assistant\n\n", "a dog sat on a log, and then the dog ran"] * 3
TAGS = ["<|im_start|>", "<|im_end|>"]


def _byte_level(*, tags: bool) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<end>", *(TAGS if tags else [])]
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*TEXTS, " the\n\n the\n\n"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


@pytest.fixture(scope="session")
def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2's, without tokens for the tags of chatml."""
    return _byte_level(tags=False)


@pytest.fixture(scope="session")
def tagged() -> PreTrainedTokenizerFast:
    """As Qwen's: bytes, and tags that are tokens."""
    return _byte_level(tags=True)


@pytest.fixture(scope="session")
def metaspace() -> PreTrainedTokenizerFast:
    """As T5's or LLaMA's: the likeliest pieces, a space before a text, bytes for what is unknown."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((f"<0x{byte:02X}>", -20.0) for byte in range(256)), ("\u2581", -3.0)]
    pieces += [(letter, -5.0) for letter in "abcdefghijklmnopqrstuvwxyz.,:<>|_"]
    pieces += [("\u2581the", -2.0), ("\u2581dog", -2.0), ("im_", -2.0), ("start", -2.0), ("user", -2.0), ("\n\n", -1.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.add_special_tokens([AddedToken("</s>", normalized=False, special=True)])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="session")
def word_pieces() -> PreTrainedTokenizerFast:
    """As BERT's: words and pieces of them in lower case, white space forgotten."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[UNK]", "[SEP]"], show_progress=False)
    tokenizer.train_from_iterator([*TEXTS, "abcdefghijklmnopqrstuvwxyz <|im_start|> <|im_end|>"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[SEP]")


@pytest.fixture(scope="session")
def table():
    """Return what makes a table of rows."""
    return lambda *rows: Table(
        [Row(row, f"a.jsonl:{n}") for n, row in enumerate(rows, 1)], [DataFile("a.jsonl", "", len(rows))]
    )
