"""Every word begins at a token of its own, and its tokens spell it again."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from peftcli.data.words import word_ids
from peftcli.errors import DataError

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,-'"
SPECIAL = ("<end>", "<s>", "</s>", "<unk>", "[")


@pytest.fixture(scope="session")
def word_pieces() -> PreTrainedTokenizerFast:
    """As BERT's: pieces of words, special tokens around them, nothing made of marks without width."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *(f"##{letter}" for letter in LETTERS), "the", "##ing"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def split(tokenizer, *rows, max_length=10_000):
    return list(word_ids(tokenizer, rows, [f"a.jsonl:{n}" for n in range(1, len(rows) + 1)], max_length))


def spelled(tokenizer, found, around=0):
    """Return what the tokens from each word's first one to the next word's spell."""
    ids = found.ids["input_ids"]
    ends = [*found.starts[1:], len(ids) - around]
    texts = (tokenizer.decode(ids[a:b]) for a, b in zip(found.starts, ends, strict=True))
    return [text.strip(" ") for text in texts]


def fit(word: str) -> bool:
    blank = any(c.isspace() or unicodedata.category(c).startswith(("Z", "C")) or c == "\u2581" for c in word)
    return not blank and not any(mark in word for mark in SPECIAL)


ANY_WORDS = st.lists(st.text(min_size=1, max_size=8).filter(fit), min_size=1, max_size=8)
PLAIN_WORDS = st.lists(st.text(LETTERS, min_size=1, max_size=8), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(words=ANY_WORDS)
def test_bytes_spell_every_word_again(byte_level, words):
    (found,) = split(byte_level, words)
    assert spelled(byte_level, found) == words


@settings(max_examples=150, deadline=None)
@given(words=ANY_WORDS)
def test_pieces_with_bytes_for_what_is_unknown_spell_every_word_again(sentencepiece, words):
    (found,) = split(sentencepiece, words)
    assert spelled(sentencepiece, found) == words


@settings(max_examples=150, deadline=None)
@given(words=PLAIN_WORDS)
def test_word_pieces_spell_every_word_again(word_pieces, words):
    (found,) = split(word_pieces, words)
    assert spelled(word_pieces, found, around=1) == words


@settings(max_examples=100, deadline=None)
@given(words=PLAIN_WORDS, room=st.integers(3, 20))
def test_what_is_cut_leaves_the_first_words(word_pieces, words, room):
    (whole,), (cut,) = split(word_pieces, words), split(word_pieces, words, max_length=room)
    assert len(cut.ids["input_ids"]) <= room
    assert cut.starts == [place for place in whole.starts if place < room - 1]


def test_a_word_in_a_row_has_the_tokens_it_has_in_running_text(byte_level):
    (found,) = split(byte_level, ["the", "dog", "sat"])
    assert found.ids["input_ids"] == byte_level("the dog sat")["input_ids"]


def test_a_word_of_nothing_is_unknown(word_pieces):
    plain, found = split(word_pieces, ["ab", "c"], ["ab", "\u200b", "c", "\u00ad"])
    assert [found.ids["input_ids"][place] for place in found.starts[1::2]] == [1, 1]
    assert len(found.starts) == 4
    assert len(plain.starts) == 2


def test_a_word_of_nothing_is_refused_where_nothing_stands_for_it(word_pieces):
    bare = PreTrainedTokenizerFast(tokenizer_object=word_pieces.backend_tokenizer)
    with pytest.raises(DataError, match=r"a\.jsonl:2: the tokenizer makes no token of the word '\\u200b'"):
        split(bare, ["a"], ["a", "\u200b"])


def test_rows_keep_their_order_across_chunks(word_pieces):
    rows = [["a"] * (1 + n % 3) for n in range(2500)]
    assert [len(found.starts) for found in split(word_pieces, *rows)] == [1 + n % 3 for n in range(2500)]
