"""SQuAD's nested JSON becomes rows, and what is wrong in it is told with its place."""

import json

import pytest

from peftcli.data.rows import read_rows
from peftcli.errors import DataError


def question(text="Who?", answers=()):
    return {"id": text, "question": text, "answers": [{"text": a, "answer_start": s} for a, s in answers]}


NESTED = {
    "version": "v2.0",
    "data": [
        {"title": "One", "paragraphs": [{"context": "Ann met Bob.", "qas": [question("Who met?", [("Ann", 0)])]}]},
        {
            "title": "Two",
            "paragraphs": [
                {"context": "It rained.", "qas": []},
                {"context": "It snowed.", "qas": [question("When?"), question("What?", [("It", 0)])]},
            ],
        },
    ],
}


def read(tmp_path, content):
    file = tmp_path / "squad.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return read_rows(str(file))


def test_every_question_is_a_row_with_its_context_and_its_place(tmp_path):
    table = read(tmp_path, NESTED)
    assert [row.values["question"] for row in table.rows] == ["Who met?", "When?", "What?"]
    assert [row.values["context"] for row in table.rows] == ["Ann met Bob.", "It snowed.", "It snowed."]
    assert [row.values["title"] for row in table.rows] == ["One", "Two", "Two"]
    assert table.rows[2].where.endswith("squad.json:data[1].paragraphs[1].qas[1]")
    assert table.files[0].rows == 3


@pytest.mark.parametrize(
    ("content", "place", "what"),
    [
        ({"data": [{"paragraphs": {}}]}, "data[0]", "there is no list called 'paragraphs'"),
        ({"data": [{"paragraphs": []}, 7]}, "data[1]", "not an object but '7'"),
        ({"data": [{"paragraphs": ["x"]}]}, "data[0].paragraphs[0]", "not an object but 'x'"),
        (
            {"data": [{"paragraphs": [{"qas": []}]}]},
            "data[0].paragraphs[0]",
            "the paragraph has no text called 'context'",
        ),
        ({"data": [{"paragraphs": [{"context": "a"}]}]}, "data[0].paragraphs[0]", "there is no list called 'qas'"),
        (
            {"data": [{"paragraphs": [{"context": "a", "qas": [None]}]}]},
            "data[0].paragraphs[0].qas[0]",
            "not an object but 'None'",
        ),
    ],
)
def test_what_is_not_where_it_belongs_is_told_with_its_place(tmp_path, content, place, what):
    with pytest.raises(DataError) as caught:
        read(tmp_path, content)
    (problem,) = caught.value.problems
    assert problem.what == what
    assert problem.where.endswith(f"squad.json:{place}")


def test_another_object_is_no_data_set(tmp_path):
    with pytest.raises(DataError, match="the file is not a list of objects"):
        read(tmp_path, {"data": [{"text": "a"}]})
