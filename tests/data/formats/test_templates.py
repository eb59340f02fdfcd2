"""Chat templates as models really have them: what is learned, what is refused, what a long chat loses."""

import pytest

from peftcli.data.chat_template import BUILT_IN, read_template
from peftcli.data.datasets import load_data
from peftcli.data.examples import IGNORED
from peftcli.data.tables import Table
from peftcli.data.tasks import CausalLm, task_from_manifest
from peftcli.errors import DataError, RecipeError
from peftcli.recipe.recipe import DataSection

LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>' + messages[0]['content'] + '<</SYS>>' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ system if loop.first else '' }}{{ m['content'].strip() }} [/INST]"
    "{% else %} {{ m['content'].strip() }} {{ eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{% for m in messages %}<|start|>{{ m['role'] }}<|header|>\n\n{{ m['content'] | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|header|>\n\n{% endif %}"
)
NO_MARK = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
# As models that think: the thoughts of earlier turns are forgotten.
FORGETS = (
    "{% for m in messages %}{{ m['role'] }}: "
    "{% if m['role'] == 'assistant' and loop.last %}<think></think>{% endif %}{{ m['content'] }}|{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "the dog"},
    {"role": "assistant", "content": "a log"},
    {"role": "user", "content": "the cat"},
    {"role": "assistant", "content": "a mat "},
]


def task(template=BUILT_IN["chatml"], **settings):
    return CausalLm(column_names={"messages": "messages"}, chat_template=template, **settings)


def learned(example, tokenizer):
    pieces, open_ = [], False
    for label in example.ids["labels"]:
        if label == IGNORED:
            open_ = False
            continue
        pieces[-1 if open_ else len(pieces) :] = [[*(pieces[-1] if open_ else []), label]]
        open_ = True
    return [tokenizer.decode(piece) for piece in pieces]


@pytest.mark.parametrize(
    ("template", "answers"),
    [
        (LLAMA_2, [" a log <end>", " a mat <end>"]),
        (LLAMA_3, ["a log<|eot|>", "a mat<|eot|>"]),
        (NO_MARK, [" a log\n", " a mat \n<end>"]),
    ],
)
def test_the_end_of_a_turn_is_learned_whatever_marks_it(template, answers, byte_level, table):
    (example,) = task(template).encode(table({"messages": TALK}), byte_level, 1000)
    assert learned(example, byte_level) == answers


def test_the_tokenizer_s_own_template_is_used_where_the_recipe_names_none(byte_level, table):
    rows = table({"messages": TALK})
    with pytest.raises(RecipeError, match=r"has no chat template, which rows of messages need\n.*chatml"):
        task(None).encode(rows, byte_level, 1000)
    byte_level.chat_template = LLAMA_3
    try:
        (own,) = task(None).encode(rows, byte_level, 1000)
    finally:
        byte_level.chat_template = None
    assert own == task(LLAMA_3).encode(rows, byte_level, 1000)[0]


def test_a_template_that_writes_a_turn_otherwise_once_it_is_past_is_refused_unless_the_last_alone_is_learned(
    byte_level, table
):
    rows = table({"messages": TALK})
    with pytest.raises(
        DataError, match=r"a\.jsonl:1: the chat template writes .* up to message 3, otherwise.*\n.*last"
    ):
        task(FORGETS).encode(rows, byte_level, 1000)
    (example,) = task(FORGETS, train_on="last").encode(rows, byte_level, 1000)
    assert learned(example, byte_level) == ["<think></think>a mat |"]


@pytest.mark.parametrize("template", ["{% if %}", "{{ messages[9]['content'] + 'x' }}", "{{ 1 / 0 }}"])
def test_a_template_that_fails_is_named_with_the_row(template, byte_level, table):
    with pytest.raises(DataError, match=r"a\.jsonl:1: data\.chat_template cannot render this row: "):
        task(template).encode(table({"messages": TALK}), byte_level, 1000)


def test_a_template_cannot_reach_into_the_program(byte_level, table):
    with pytest.raises(DataError, match="cannot render this row"):
        task("{{ ''.__class__.__mro__[1].__subclasses__() }}").encode(table({"messages": TALK}), byte_level, 1000)


def test_a_role_that_the_template_refuses_is_told_in_its_words(byte_level, table):
    rows = table({"messages": [*TALK[:2], {"role": "tool", "content": "7"}, TALK[2]]})
    with pytest.raises(DataError, match="cannot render this row: roles must alternate"):
        task(LLAMA_2).encode(rows, byte_level, 1000)
    (example,) = task().encode(rows, byte_level, 1000)
    assert "<|im_start|>tool\n7<|im_end|>" in byte_level.decode(example.ids["input_ids"])
    assert learned(example, byte_level) == ["a log<|im_end|>"]


def test_a_template_that_asks_for_the_date_is_always_told_the_same(byte_level, table):
    dated = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}|" + NO_MARK
    (example,) = task(dated).encode(table({"messages": TALK}), byte_level, 1000)
    assert byte_level.decode(example.ids["input_ids"]).startswith("01 Jan 2025|system: ")


def test_an_answer_before_any_question_is_context(byte_level, table):
    (example,) = task().encode(table({"messages": [TALK[2], *TALK[3:]]}), byte_level, 1000)
    assert learned(example, byte_level) == ["a mat <|im_end|>"]


def test_messages_that_nothing_follows_from_are_left_out(byte_level, table):
    with_more, without = (task().encode(table({"messages": m}), byte_level, 1000)[0] for m in ([*TALK, TALK[1]], TALK))
    assert with_more == without


def test_a_long_chat_loses_its_first_turns_and_keeps_the_system_s(byte_level, table):
    whole = task().encode(table({"messages": TALK}), byte_level, 1000)[0]
    examples = task().encode(table({"messages": TALK}), byte_level, whole.length - 1)
    shorter = task().encode(table({"messages": [TALK[0], *TALK[3:]]}), byte_level, 1000)
    assert (examples[0], examples.counts["truncated"]) == (shorter[0], 1)


def test_where_the_last_exchange_is_too_long_the_user_s_message_loses_its_start(byte_level, table):
    long = [TALK[0], {"role": "user", "content": "the dog ran. " * 20 + "What did the dog do?"}, TALK[2]]
    examples = task().encode(table({"messages": long}), byte_level, 100)
    text = byte_level.decode(examples[0].ids["input_ids"])
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    assert text.endswith("What did the dog do?<|im_end|>\n<|im_start|>assistant\na log<|im_end|>\n")
    assert (examples[0].length, examples.counts["truncated"]) == (100, 1)
    assert learned(examples[0], byte_level) == ["a log<|im_end|>"]


def test_chats_whose_answers_do_not_fit_are_left_out_and_refused_where_they_are_many(byte_level, table):
    long = [*TALK[:2], {"role": "assistant", "content": "a log " * 300}]
    rows = table(*[{"messages": TALK}] * 199, {"messages": long})
    examples = task().encode(rows, byte_level, 200)
    assert (len(examples), examples.counts["dropped"], examples.counts["truncated"]) == (199, 1, 0)
    with pytest.raises(DataError, match=r"a\.jsonl:200: the assistant's turn alone is longer than 200 tokens in 1 row"):
        task().encode(Table(rows.rows[198:], rows.files), byte_level, 200)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("hello", "not a list of messages"),
        ([], "not a list of messages"),
        (["hello"], "message 1 is not an object with role and content"),
        ([{"role": "usr", "content": "a"}], r"message 1 has the role 'usr' \(Did you mean 'user'\?"),
        ([{"role": "user", "content": ["a"]}], "the content of message 1 is not text"),
        ([TALK[1], {"role": "assistant", "content": " "}], "message 2, the assistant's, is blank"),
        ([TALK[1]], "no turn of the assistant follows one of the user"),
        ([TALK[2], TALK[1]], "no turn of the assistant follows one of the user"),
    ],
)
def test_messages_that_are_none_are_refused_with_their_line(value, what, table):
    (problem,) = task().problems(table({"messages": TALK}, {"messages": value}))
    assert problem.where == "a.jsonl:2"
    with pytest.raises(DataError, match=rf"a\.jsonl:2: column 'messages': {what}.*in 1 row"):
        task().encode(table({"messages": TALK}, {"messages": value}), None, 100)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("hello", "not a list of turns"),
        ([{"from": "gtp", "value": "a"}], r"turn 1 is from 'gtp' \(Did you mean 'gpt'\?"),
        ([{"from": "human", "value": 7}], "the value of turn 1 is not text"),
        ([{"from": "gpt", "value": "a"}], "no turn of the assistant follows one of the user"),
    ],
)
def test_conversations_that_are_none_are_refused_with_their_line(value, what, table):
    rows = CausalLm(column_names={"conversations": "conversations"})
    with pytest.raises(DataError, match=rf"a\.jsonl:1: column 'conversations': {what}"):
        rows.encode(table({"conversations": value}), None, 100)


@pytest.mark.parametrize(
    ("row", "columns", "found"),
    [
        ({"messages": TALK, "prompt": "the dog"}, {}, {"messages": "messages"}),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, {}, ["conversations"]),
        ({"instruction": "a", "input": "", "output": "b", "text": "all"}, {}, ["instruction", "input", "output"]),
        ({"instruction": "a", "output": "b"}, {}, ["instruction", "output"]),
        ({"text": "a"}, {}, ["text"]),
        ({"story": "a"}, {"text": "story"}, {"text": "story"}),
        ({"question": "a", "answer": "b"}, {"prompt": "question", "completion": "answer"}, None),
        ({"dialogue": TALK}, {"messages": "dialogue"}, {"messages": "dialogue"}),
        ({"q": "a", "a": "b"}, {"instruction": "q", "output": "a"}, {"instruction": "q", "output": "a"}),
    ],
)
def test_the_format_is_that_of_the_columns(row, columns, found, tmp_path):
    import json

    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    made = load_data(DataSection(task="causal-lm", train=str(file), columns=columns), 0).task
    expected = columns if found is None else found
    assert made.column_names == (expected if isinstance(expected, dict) else {name: name for name in expected})
    assert task_from_manifest(made.manifest()) == made


@pytest.mark.parametrize(
    ("columns", "template", "what"),
    [
        ({"promt": "text"}, None, r"data\.columns has no key 'promt'\n.*Did you mean 'prompt'"),
        ({"prompt": "text", "messages": "text"}, None, "prompt, messages, which no format has together"),
        ({}, "chatml", "data.chat_template means nothing for rows of text"),
        ({"messages": "text"}, "chatlm", r"data\.chat_template is 'chatlm'\n.*Did you mean 'chatml'"),
        ({"messages": "text"}, "missing.jinja", "missing.jinja: the chat template cannot be read: No such file"),
    ],
)
def test_what_a_recipe_cannot_mean_is_refused(columns, template, what, tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a"}\n', encoding="utf-8")
    section = DataSection(task="causal-lm", train=str(file), columns=columns, chat_template=template)
    with pytest.raises(RecipeError, match=what):
        load_data(section, 0)


def test_the_template_of_a_file_travels_with_the_task(tmp_path):
    file = tmp_path / "own.jinja"
    file.write_text(LLAMA_3, encoding="utf-8")
    assert read_template(str(file)) == LLAMA_3
    file.write_bytes(b"\xff")
    with pytest.raises(RecipeError, match="not UTF-8 text"):
        read_template(str(file))
    assert task_from_manifest(task(LLAMA_3, train_on="last").manifest()) == task(LLAMA_3, train_on="last")
