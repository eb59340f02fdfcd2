"""Windows cover a whole text, share what they are told to, and know where their tokens stand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from peftcli.data.windows import span_in, windows_of
from peftcli.errors import DataError

LETTERS = "abcde"


def letters() -> PreTrainedTokenizerFast:
    """As BERT's, with one token for every letter, so that a word has several."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    tokenizer = Tokenizer(models.WordPiece({word: n for n, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


TOKENIZER = letters()
words = st.lists(st.text(LETTERS, min_size=1, max_size=4), min_size=1, max_size=30)
spaces = st.sampled_from([" ", "  ", "\n", "\t "])


@st.composite
def texts(draw):
    return draw(spaces).join(draw(words))


@settings(deadline=None)
@given(question=texts(), text=texts(), max_length=st.integers(8, 40), shared=st.integers(0, 40))
def test_windows_cover_every_token_and_share_what_they_are_told_to(question, text, max_length, shared):
    (found,) = windows_of(TOKENIZER, [(question, text)], max_length, shared)
    whole = TOKENIZER(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    asked = found.items[0].first - 2  # [CLS] and [SEP] stand around the question
    room = max_length - 3 - asked
    overlap = min(shared, room // 2)
    end = 0
    for window in found.items:
        start = max(0, end - overlap)
        assert window.offsets == whole[start : start + len(window.offsets)]
        assert len(window.ids["input_ids"]) == len(window.offsets) + asked + 3 <= max_length
        end = start + len(window.offsets)
    assert end == len(whole)


@settings(deadline=None)
@given(
    question=texts(),
    text=words,
    space=spaces,
    max_length=st.integers(12, 40),
    shared=st.integers(0, 20),
    data=st.data(),
)
def test_a_span_decodes_to_exactly_its_text_and_is_in_a_window_if_the_overlap_holds_it(
    question, text, space, max_length, shared, data
):
    first = data.draw(st.integers(0, len(text) - 1))
    last = data.draw(st.integers(first, len(text) - 1))
    whole, answer = space.join(text), space.join(text[first : last + 1])
    begin = len(space.join([*text[:first], ""]))
    end = begin + len(answer)
    (found,) = windows_of(TOKENIZER, [(question, whole)], max_length, shared)
    spans = [(window, span) for window in found.items if (span := span_in(window.offsets, begin, end))]
    for window, (start, stop) in spans:
        assert whole[window.offsets[start][0] : window.offsets[stop][1]] == answer
    room = max_length - 3 - (found.items[0].first - 2)
    tokens = sum(map(len, text[first : last + 1]))
    assert spans or tokens > min(shared, room // 2) + 1


def test_a_span_that_a_window_holds_in_part_is_not_in_it():
    offsets = [(4, 6), (6, 8), (9, 12)]
    assert span_in(offsets, 6, 12) == (1, 2)
    assert span_in(offsets, 5, 8) == (0, 1)
    assert span_in(offsets, 3, 8) is None
    assert span_in(offsets, 9, 13) is None
    assert span_in([], 0, 1) is None


def test_a_question_takes_half_of_the_room_at_most():
    (found,) = windows_of(TOKENIZER, [("abcde abcde", "a b")], 13, 4)
    assert found.cut
    assert len(found.items) == 1
    tokens = TOKENIZER.convert_ids_to_tokens(found.items[0].ids["input_ids"])
    assert tokens == ["[CLS]", "a", "##b", "##c", "##d", "##e", "[SEP]", "a", "b", "[SEP]"]
    (short,) = windows_of(TOKENIZER, [(" abcde ", "a b")], 13, 4)
    assert not short.cut


def test_without_room_for_a_question_and_a_text_the_length_is_refused():
    with pytest.raises(DataError, match="max_length is 4, of which the tokenizer's special tokens take 3"):
        list(windows_of(TOKENIZER, [("a", "b")], 4, 0))
