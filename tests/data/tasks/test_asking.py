"""What a row is asked is what stands before its answer, whether it has one or not."""

import pytest

from peftcli.data.tables import DataFile, Row, Table
from peftcli.data.tasks import task_from_manifest
from peftcli.errors import DataError

TURNS = [{"role": "user", "content": "the dog"}, {"role": "assistant", "content": "a log"}]
SPOKEN = [{"from": "human", "value": "the dog"}, {"from": "gpt", "value": "a log"}]
ROWS = {
    "prompt": ({"prompt": "the dog", "completion": "a log"}, {"prompt": "the dog"}),
    "alpaca": (
        {"instruction": "the dog", "input": "ran", "output": "a log"},
        {"instruction": "the dog", "input": "ran"},
    ),
    "messages": ({"messages": [*TURNS, *TURNS]}, {"messages": [*TURNS, TURNS[0]]}),
    "conversations": ({"conversations": SPOKEN}, {"conversations": SPOKEN[:1]}),
}


def task_for(values):
    return task_from_manifest(
        {"name": "causal-lm", "columns": {name: name for name in values}, "chat_template": CHATML}
    )


CHATML = (
    "{%- for message in messages %}{{- message['role'] + '\\n' + message['content'] + '\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- 'assistant\\n' }}{%- endif %}"
)


def table(*rows):
    return Table([Row(row, f"a.jsonl:{n}") for n, row in enumerate(rows, 1)], [DataFile("a.jsonl", "", len(rows))])


@pytest.mark.parametrize("tokenizer", ["byte_level", "sentencepiece"])
@pytest.mark.parametrize("form", list(ROWS))
def test_a_row_is_asked_what_it_learns_from(form, tokenizer, request):
    reader = request.getfixturevalue(tokenizer)
    answered, open_ = ROWS[form]
    task = task_for(answered)
    (learned,) = task.encode(table(answered), reader, 500)
    known, unknown = task.asked(table(answered, open_), reader, 500)
    wanted = task.prompted(learned).ids["input_ids"]
    assert task.prompted(known).ids["input_ids"] == task.prompted(unknown).ids["input_ids"] == wanted
    assert (known.references, unknown.references) == (("a log",), ())
    assert task.question(Row(open_, ""))


def test_a_text_goes_on_where_it_ends(byte_level):
    task = task_for({"text": ""})
    (example,) = task.asked(table({"text": "the dog ran"}), byte_level, 100)
    assert byte_level.decode(task.prompted(example).ids["input_ids"], skip_special_tokens=True) == "the dog ran"
    assert example.references == ()


def test_a_long_question_loses_its_start_and_leaves_room_for_a_token(byte_level):
    task = task_for(ROWS["prompt"][0])
    (example,) = task.asked(table({"prompt": "the dog and the log " * 9}), byte_level, 20)
    whole = byte_level("the dog and the log " * 9)["input_ids"]
    assert example.ids["input_ids"] == whole[-19:]


@pytest.mark.parametrize("form", list(ROWS))
def test_a_text_of_the_command_line_becomes_a_row(form, byte_level):
    task = task_for(ROWS[form][0])
    row = task.asking("the dog")
    (example,) = task.asked(table(row), byte_level, 500)
    assert "the dog" in byte_level.decode(example.ids["input_ids"])


@pytest.mark.parametrize(
    ("form", "row", "what"),
    [
        ("prompt", {"x": "y"}, "no column is called 'prompt'"),
        ("prompt", {"prompt": 3}, "'prompt' is a whole number, not text"),
        ("alpaca", {"instruction": " "}, "'instruction' has no text"),
        ("messages", {"messages": [TURNS[1]]}, "there is no turn of the user"),
        ("messages", {"messages": "hello"}, "not a list of messages"),
        ("conversations", {"conversations": []}, "not a list of turns"),
    ],
)
def test_rows_that_ask_nothing_are_refused(form, row, what, byte_level):
    with pytest.raises(DataError, match=what):
        task_for(ROWS[form][0]).asked(table(row), byte_level, 100)
