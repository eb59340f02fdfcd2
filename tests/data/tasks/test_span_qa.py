"""An answer is the best span of all windows, the loss is that of its ends, and wrong places are told."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from peftcli.data.datasets import load_data
from peftcli.data.tables import DataFile, Row, Table
from peftcli.data.tasks import SpanQa, task_from_manifest
from peftcli.data.tasks.answer_spans import END, NOWHERE, START, tagged_span
from peftcli.data.tasks.span_scores import best_spans
from peftcli.errors import ArtifactError, DataError, RecipeError

TASK = SpanQa(column_names={role: role for role in ("question", "context", "answers")})
CONTEXT = "the cat sat on the mat and then a dog ran on a log"


def row(question="a dog", context=CONTEXT, answers=(("a dog", 32),), number=1):
    found = {"text": [text for text, _ in answers], "answer_start": [start for _, start in answers]}
    return Row({"question": question, "context": context, "answers": found}, f"a.jsonl:{number}")


def table(*rows):
    return Table(list(rows), [DataFile("a.jsonl", "", len(rows))])


class Scorer(nn.Module):
    """Scores each token by itself, so that a window sees what the whole text would."""

    def __init__(self, seed=0, ids=200):
        super().__init__()
        self.table = nn.Parameter(torch.randn(ids, 2, generator=torch.Generator().manual_seed(seed)))

    def forward(self, input_ids, **_):
        start, end = self.table[input_ids].unbind(-1)
        return SimpleNamespace(start_logits=start, end_logits=end)


def answered(task, rows, tokenizer, max_length, network, virtual=None):
    examples = task.encode(rows, tokenizer, max_length)
    outcomes = task.outcomes(network, task.collate(examples.items, 0, virtual))
    return [task.completed(example, outcome) for example, outcome in zip(examples, outcomes, strict=True)]


def test_the_tags_mark_the_first_answer_in_each_window_that_holds_it(pairs):
    (example,) = TASK.encode(table(row()), pairs, 12)
    held = [tagged_span(part.ids["tags"]) for part in example.parts]
    assert len(held) > 1
    assert any(held)
    assert not all(held)
    for part, span in zip(example.parts, held, strict=True):
        if span is None:
            assert part.ids["tags"][0] == START + END + NOWHERE
        else:
            assert pairs.convert_ids_to_tokens(part.ids["input_ids"][span[0] : span[1] + 1]) == ["a", "dog"]
            assert part.ids["tags"][0] == NOWHERE
        question = part.ids["input_ids"].index(3)
        assert set(part.ids["tags"][1 : question + 1]) == {-100}
    assert example.references == ("a dog",)
    assert TASK.items(example) == len(example.parts)


@settings(deadline=None)
@given(
    scores=st.lists(st.tuples(*[st.integers(-9, 9)] * 2), min_size=3, max_size=9),
    longest=st.integers(1, 10),
    count=st.integers(1, 6),
)
def test_the_best_spans_are_those_of_trying_all(scores, longest, count):
    tags = torch.tensor([[NOWHERE, -100, *[0] * (len(scores) - 2)]])
    values = torch.tensor([scores]).float().masked_fill((tags < 0).unsqueeze(-1), -math.inf)
    inside = scores[2:]
    tried = [inside[i][0] + inside[j][1] for i in range(len(inside)) for j in range(i, len(inside)) if j - i < longest]
    (found,) = best_spans(values, tags, longest, count)
    assert [score for *_, score in found] == sorted(tried, reverse=True)[:count]
    assert all(0 <= j - i < longest and inside[i][0] + inside[j][1] == score for i, j, score in found)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), max_length=st.integers(13, 18))
def test_windows_answer_as_the_whole_text_does(pairs_tokenizer, seed, max_length):
    task = SpanQa(column_names=TASK.column_names, doc_stride=5, max_answer_length=3, unanswerable=bool(seed % 2))
    rows, network = table(row(), row(context=f"{CONTEXT} {CONTEXT}", number=2)), Scorer(seed)
    cut = answered(task, rows, pairs_tokenizer, max_length, network)
    whole = answered(task, rows, pairs_tokenizer, 100, network)
    assert [one["windows"] for one in whole] == [1, 1]
    assert all(one["windows"] > 1 for one in cut)
    for one, other in zip(cut, whole, strict=True):
        assert one["prediction"] == other["prediction"]
        assert one["none"] == other["none"]
    assert task.metrics(cut, ["f1", "exact_match"]) == task.metrics(whole, ["f1", "exact_match"])


@pytest.fixture(scope="module")
def pairs_tokenizer(request):
    return request.getfixturevalue("pairs")


def test_a_right_answer_scores_one_and_half_of_it_its_f1(pairs):
    outcomes = [
        {"prediction": "The dog!", "references": ["a dog", "dog"], "loss": 2.0, "windows": 2},
        {"prediction": "dog ran", "references": ["a dog"], "loss": 1.0, "windows": 1},
        {"prediction": "", "references": [], "loss": 0.0, "windows": 1},
    ]
    found = TASK.metrics(outcomes, None)
    assert found == {"exact_match": pytest.approx(2 / 3), "f1": pytest.approx((1 + 2 / 3 + 1) / 3), "loss": 0.75}
    with_answer, without = TASK.details(outcomes)["questions"]
    assert (with_answer["n"], with_answer["exact_match"], without["n"], without["f1"]) == (2, 0.5, 1, 1.0)


def test_the_loss_is_that_of_both_ends_over_the_places_of_an_answer(pairs):
    (example,) = TASK.encode(table(row()), pairs, 60)
    network = Scorer()
    part = example.parts[0]
    places = [i for i, tag in enumerate(part.ids["tags"]) if tag >= 0]
    start, end = tagged_span(part.ids["tags"])
    scores = network.table[torch.tensor(part.ids["input_ids"])]
    by_hand = 0.0
    for side, target in ((0, start), (1, end)):
        logs = scores[places, side].log_softmax(0)
        by_hand -= logs[places.index(target)].item() / 2
    assert TASK.loss(network, TASK.collate([example], 0, None)).item() == pytest.approx(by_hand, rel=1e-5)


def test_padding_does_not_change_the_loss(pairs):
    examples = TASK.encode(table(row(), row(context="a dog", answers=[("dog", 2)], number=2)), pairs, 60).items
    network = Scorer()
    alone = [TASK.loss(network, TASK.collate([example], 0, None)).item() for example in examples]
    assert TASK.loss(network, TASK.collate(examples, 0, None)).item() == pytest.approx(sum(alone), rel=1e-6)
    assert [o["loss"] for o in TASK.outcomes(network, TASK.collate(examples, 0, None))] == pytest.approx(alone)


def test_the_first_rows_of_a_batch_are_the_batch_of_the_first_rows(pairs):
    examples = TASK.encode(table(*(row(number=n) for n in (1, 2, 3))), pairs, 14).items
    found, asked = TASK.first_rows(TASK.collate(examples, 0, None), 2), TASK.collate(examples[:2], 0, None)
    assert found.keys() == asked.keys()
    assert all(torch.equal(found[name], asked[name]) for name in asked)


def test_virtual_tokens_move_the_places_and_answer_nothing(pairs):
    virtual = SimpleNamespace(count=3, first_id=150, after=1, infix=0)
    network = Scorer()
    with torch.no_grad():
        network.table[150:153] = 100.0
    plain = answered(TASK, table(row()), pairs, 14, network)
    moved = answered(TASK, table(row()), pairs, 14, network, virtual)
    assert moved == plain


@pytest.mark.parametrize(
    ("unanswerable", "threshold", "prediction"), [(True, 0, ""), (True, 5, "dog"), (False, 0, "dog")]
)
def test_no_answer_is_predicted_where_it_scores_higher_by_more_than_the_threshold(
    pairs, unanswerable, threshold, prediction
):
    task = SpanQa(
        column_names=TASK.column_names, max_answer_length=1, unanswerable=unanswerable, null_threshold=threshold
    )
    network = Scorer()
    with torch.no_grad():
        network.table.zero_()
        network.table[2] = 3.0  # [CLS]
        network.table[pairs.convert_tokens_to_ids("dog")] = 1.0
    (outcome,) = answered(task, table(row(answers=[])), pairs, 60, network)
    assert (outcome["none"], outcome["candidates"][0]) == (6.0, ["dog", 2.0])
    assert outcome["prediction"] == prediction
    assert task.metrics([outcome], ["exact_match"]) == {"exact_match": float(prediction == "")}


def test_the_training_rows_tell_whether_there_may_be_no_answer(section):
    full = {"question": "a dog", "context": CONTEXT, "answers": {"text": ["a dog"], "answer_start": [32]}}
    none = {**full, "answers": {"text": [], "answer_start": []}}
    assert not load_data(section("span-qa", [full, full]), seed=0).task.unanswerable
    assert load_data(section("span-qa", [full, none]), seed=0).task.unanswerable


def test_what_was_encoded_is_counted(pairs):
    rows = table(
        row(), row(answers=[], number=2), row(answers=[("cat sat on the mat and then a dog ran on", 4)], number=3)
    )
    counts = TASK.encode(rows, pairs, 14).counts
    assert counts["rows"] == 3
    assert counts["impossible"] == 1
    assert counts["in_no_window"] == 1
    assert counts["windows"] > counts["supervised"] == 3
    assert counts["longest"] <= 14


@pytest.mark.parametrize(
    ("answers", "what", "hint"),
    [
        ([("a dog", 33)], "the answer 'a dog' does not stand at character 33", "It stands at character 32;"),
        ([("a dog", -1)], "the answer 'a dog' does not stand at character -1", "It stands at character 32;"),
        ([("a dog", 400)], "does not stand at character 400", "It stands at character 32;"),
        ([("the", 14)], "does not stand at character 14", "It stands at character 15;"),
        ([("A Dog", 32)], "the answer 'A Dog' does not stand", "It stands at character 32, in other case;"),
        ([("a cow", 32)], "the answer 'a cow' does not stand", "The context does not hold it"),
        ([("a dog", 32), ("ran", 37)], "the answer 'ran' does not stand", "It stands at character 38;"),
        ([(" ", 3)], "has the text ' ', which is no answer", "Write"),
        ([("a dog", "32")], "has the answer_start '32', not a whole number", "Write"),
        ([("a dog", True)], "has the answer_start True, not a whole number", "Write"),
    ],
)
def test_an_answer_that_does_not_stand_where_it_says_is_told_with_the_right_place(answers, what, hint):
    (problem,) = TASK.problems(table(row(answers=answers, number=7)))
    assert what in problem.what
    assert problem.where == "a.jsonl:7"
    assert problem.hint.startswith(hint)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (None, "is null, not an object"),
        ("a dog", "is text, not an object"),
        ({"text": ["a dog"]}, "lacks one of the lists text and answer_start"),
        ({"text": ["a dog"], "answer_start": []}, "has 1 texts but 0 places in answer_start"),
    ],
)
def test_answers_of_another_form_are_told(value, what):
    (problem,) = TASK.problems(table(Row({"question": "a", "context": "b", "answers": value}, "a.jsonl:3")))
    assert what in problem.what
    assert problem.where == "a.jsonl:3"


def test_answers_may_be_a_list_of_objects(pairs):
    one = row()
    listed = Row({**one.values, "answers": [{"text": "a dog", "answer_start": 32}]}, one.where)
    assert TASK.encode(table(listed), pairs, 60).items == TASK.encode(table(one), pairs, 60).items


def test_of_many_wrong_answers_the_first_are_shown_and_all_are_counted():
    with pytest.raises(DataError) as caught:
        TASK.encode(table(*(row(answers=[("a dog", 1)], number=n) for n in range(1, 31))), None, 60)
    assert len(caught.value.problems) == 11
    assert caught.value.problems[-1].what.startswith("30 rows with wrong answers in all")


def test_the_task_goes_through_its_manifest():
    task = SpanQa(column_names=TASK.column_names, max_length=99, doc_stride=7, null_threshold=1.5, unanswerable=True)
    assert task_from_manifest(task.manifest()) == task
    for damage in ({"doc_stride": "7"}, {"unanswerable": 1}, {"columns": {"question": "q"}}):
        with pytest.raises(ArtifactError):
            task_from_manifest({**task.manifest(), **damage})


def test_its_settings_mean_nothing_for_another_task(section):
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    with pytest.raises(RecipeError, match=r"data\.doc_stride means nothing for classification"):
        load_data(section("classification", rows, doc_stride=3), seed=0)


def test_a_row_is_described_with_its_prediction_and_what_else_was_likely(pairs):
    (outcome,) = answered(TASK, table(row()), pairs, 14, Scorer())
    told = TASK.describe(row(), outcome)
    assert (told["where"], told["question"], told["answers"]) == ("a.jsonl:1", "a dog", ["a dog"])
    assert told["prediction"] == told["candidates"][0][0]
    assert told["prediction"] in CONTEXT
    assert len(told["candidates"]) == 5
    assert told["loss"] == outcome["loss"] / outcome["windows"]


def test_a_row_without_answers_can_be_asked_all_the_same(pairs):
    asked = row()
    unknown = Row({**asked.values, "answers": TASK.some_answer(asked)}, asked.where)
    assert not TASK.problems(table(unknown))
    assert answered(TASK, table(unknown), pairs, 14, Scorer())[0]["prediction"]


def test_a_row_is_shown_with_its_answer_told_apart(pairs):
    (example,) = TASK.encode(table(row()), pairs, 14)
    shown = TASK.shown(example, pairs)
    assert [one.text.strip() for one in shown.stretches if one.supervised] == ["a dog"]
