"""In every format, with tokenizers of three kinds, exactly the answers and their ends are learned."""

from itertools import groupby

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peftcli.data.chat_template import BUILT_IN
from peftcli.data.examples import IGNORED
from peftcli.data.formats.alpaca import WITH_INPUT, WITHOUT_INPUT
from peftcli.data.tasks import CausalLm

LOSSLESS = ["byte_level", "tagged", "metaspace"]
LONG = 100_000
quick = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Tags and the sign of a space are what tokenizers take them for, wherever they stand.
texts = st.text(st.characters(codec="utf-8", exclude_characters="<>\0\u2581"), max_size=30)
spoken = texts.filter(str.strip)
MARK = "<|im_end|>"


@st.composite
def chats(draw):
    """Draw a conversation with a system's message or without, and one to four exchanges."""
    system = draw(st.none() | texts)
    head = [] if system is None else [{"role": "system", "content": system}]
    exchanges = draw(st.lists(st.tuples(texts, spoken), min_size=1, max_size=4))
    turns = [
        {"role": role, "content": content}
        for pair in exchanges
        for role, content in zip(("user", "assistant"), pair, strict=True)
    ]
    return head + turns


def chatml(messages):
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}{MARK}\n" for m in messages)


def runs(example):
    """Return (start, end) of every stretch of tokens with labels."""
    places = [place for place, label in enumerate(example.ids["labels"]) if label != IGNORED]
    groups = (list(group) for _, group in groupby(enumerate(places), lambda pair: pair[1] - pair[0]))
    return [(group[0][1], group[-1][1] + 1) for group in groups]


def spelled(tokenizer, ids):
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def said(tokenizer, ids, start, end):
    """Return what the tokens from start to end add to the text before them."""
    before, whole = spelled(tokenizer, ids[:start]), spelled(tokenizer, ids[:end])
    assert whole.startswith(before)
    return whole[len(before) :]


def encode(task, rows, tokenizer, length=LONG):
    examples = task.encode(rows, tokenizer, length)
    for example in examples:
        learned = [(i, label) for i, label in zip(example.ids["input_ids"], example.ids["labels"], strict=True)]
        assert all(label in (IGNORED, i) for i, label in learned)
    return examples


CHAT = CausalLm(column_names={"messages": "messages"}, chat_template=BUILT_IN["chatml"])
SHAREGPT = CausalLm(column_names={"conversations": "conversations"}, chat_template=BUILT_IN["chatml"])


@pytest.mark.parametrize("kind", LOSSLESS)
@quick
@given(messages=chats())
def test_of_a_chat_exactly_the_assistant_s_turns_and_their_marks_are_learned(kind, messages, table, request):
    tokenizer = request.getfixturevalue(kind)
    (example,) = encode(CHAT, table({"messages": messages}), tokenizer)
    ids = example.ids["input_ids"]
    found = [said(tokenizer, ids, *run) for run in runs(example)]
    assert found == [m["content"] + MARK for m in messages if m["role"] == "assistant"]
    assert spelled(tokenizer, ids) == chatml(messages)
    assert example.prompt == runs(example)[-1][0]
    assert ids[: example.prompt] == CHAT.prompted(example).ids["input_ids"]


@quick
@given(messages=chats())
def test_what_stands_before_an_answer_is_what_generation_would_be_given(messages, tagged, table):
    (example,) = encode(CHAT, table({"messages": messages}), tagged)
    opened = tagged.apply_chat_template(
        messages[:-1], chat_template=BUILT_IN["chatml"], add_generation_prompt=True, return_dict=False
    )
    assert CHAT.prompted(example).ids["input_ids"] == opened


@quick
@given(messages=chats())
def test_word_pieces_learn_the_tokens_of_the_assistant_s_turns(messages, word_pieces, table):
    (example,) = encode(CHAT, table({"messages": messages}), word_pieces)
    whole = word_pieces(chatml(messages), add_special_tokens=False)["input_ids"]
    assert example.ids["input_ids"] == whole
    answers = [m["content"] + MARK for m in messages if m["role"] == "assistant"]
    learned = [label for label in example.ids["labels"] if label != IGNORED]
    assert learned == [i for text in answers for i in word_pieces(text, add_special_tokens=False)["input_ids"]]


@quick
@given(messages=chats())
def test_sharegpt_says_the_same_with_other_words(messages, tagged, table):
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    turns = [{"from": names[m["role"]], "value": m["content"]} for m in messages]
    (ours,) = encode(SHAREGPT, table({"conversations": turns}), tagged)
    (theirs,) = encode(CHAT, table({"messages": messages}), tagged)
    assert ours == theirs


@pytest.mark.parametrize(
    ("train_on", "counted"), [("completion", ["b" + MARK, "d" + MARK]), ("last", ["d" + MARK]), ("all", None)]
)
def test_train_on_says_which_answers_are_learned(train_on, counted, tagged, table):
    messages = [{"role": r, "content": c} for r, c in zip(["user", "assistant"] * 2, "abcd", strict=True)]
    task = CausalLm(column_names={"messages": "messages"}, chat_template=BUILT_IN["chatml"], train_on=train_on)
    (example,) = encode(task, table({"messages": messages}), tagged)
    ids = example.ids["input_ids"]
    found = [said(tagged, ids, *run) for run in runs(example)]
    assert found == (counted or [chatml(messages).removeprefix("<|im_start|>")])
    assert spelled(tagged, task.prompted(example).ids["input_ids"]).endswith("c<|im_end|>\n<|im_start|>assistant\n")


PROMPTS = CausalLm(column_names={"prompt": "prompt", "completion": "completion"})


@pytest.mark.parametrize("kind", ["byte_level", "word_pieces", "metaspace"])
@quick
@given(prompt=texts, completion=spoken)
def test_of_a_prompt_and_its_completion_the_completion_is_learned(kind, prompt, completion, table, request):
    tokenizer = request.getfixturevalue(kind)
    alone = tokenizer(completion, add_special_tokens=False)["input_ids"]
    if not alone:
        return
    (example,) = encode(PROMPTS, table({"prompt": prompt, "completion": completion}), tokenizer)
    (run,) = runs(example)
    assert example.ids["input_ids"][slice(*run)] == [*alone, tokenizer.eos_token_id]
    given_ = tokenizer(prompt if not prompt or prompt[-1].isspace() else f"{prompt}\n")["input_ids"]
    assert example.ids["input_ids"][: run[0]] == (given_ or [tokenizer.eos_token_id])


ALPACA = CausalLm(column_names={"instruction": "instruction", "input": "input", "output": "output"})


@quick
@given(instruction=spoken, context=st.none() | texts, output=spoken)
def test_alpaca_s_output_follows_the_published_prompt(instruction, context, output, byte_level, table):
    (example,) = encode(ALPACA, table({"instruction": instruction, "input": context, "output": output}), byte_level)
    (run,) = runs(example)
    ids = example.ids["input_ids"]
    form = WITH_INPUT if context else WITHOUT_INPUT
    assert spelled(byte_level, ids[: run[0]]) == form.format(instruction=instruction, input=context)
    assert spelled(byte_level, ids[slice(*run)]) == f"{output}<end>"


def test_an_instruction_without_an_input_is_described_with_null(table):
    row = table({"instruction": "a", "output": "b"}).rows[0]
    told = ALPACA.describe(row, {"loss": 2.0, "tokens": 2})
    assert told == {"where": "a.jsonl:1", "instruction": "a", "input": None, "output": "b", "loss": 1.0, "tokens": 2}


PLAIN = CausalLm(column_names={"text": "text"})


@quick
@given(text=spoken)
def test_of_plain_text_everything_is_learned(text, byte_level, table):
    (example,) = encode(PLAIN, table({"text": text}), byte_level)
    assert runs(example) == [(1, example.length)]
    assert spelled(byte_level, example.ids["input_ids"]) == f"<end>{text}<end>"


def test_a_text_that_is_too_long_loses_its_end_and_is_not_said_to_be_over(byte_level, table):
    whole = encode(PLAIN, table({"text": "the dog " * 30}), byte_level)[0].ids["input_ids"]
    examples = encode(PLAIN, table({"text": "the dog " * 30}), byte_level, 20)
    assert examples[0].ids["input_ids"] == whole[:20]
    assert examples.counts["truncated"] == 1
    exact = encode(PLAIN, table({"text": "the dog " * 30}), byte_level, len(whole))
    assert (exact[0].ids["input_ids"], exact.counts["truncated"]) == (whole, 0)
    short = encode(PLAIN, table({"text": "the dog " * 30}), byte_level, len(whole) - 1)
    assert (short[0].ids["input_ids"], short.counts["truncated"]) == (whole[:-1], 1)
