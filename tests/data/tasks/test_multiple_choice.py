"""The likeliest choice is the answer, by the likelihoods that the whole logits give."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from peftcli.data.datasets import load_data
from peftcli.data.tables import DataFile, Row, Table
from peftcli.data.tasks import MultipleChoice, task_from_manifest
from peftcli.data.tasks.choice_rows import read_choice
from peftcli.errors import ArtifactError, DataError, RecipeError

NAMES = {"prompt": "prompt", "choices": "choices", "answer": "answer"}
TASK = MultipleChoice(column_names=NAMES)
ROWS = (
    ("the cat sat on", ["a log", "the mat", "a dog, and then"], 1),
    ("a dog", ["ran", "sat on the mat"], 0),
)


def table(*rows):
    values = [Row(dict(zip(NAMES, row, strict=True)), f"a.jsonl:{n}") for n, row in enumerate(rows, 1)]
    return Table(values, [DataFile("a.jsonl", "", len(rows))])


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4
    )
    found = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return found


def by_hand(network, tokenizer, prompt, choice):
    """Return the summed log-likelihood of a choice from all logits of its sequence alone, and its tokens."""
    before = tokenizer(prompt)["input_ids"]
    ids = torch.tensor([tokenizer(f"{prompt} {choice}")["input_ids"]])
    with torch.no_grad():
        logs = network(ids).logits[0].log_softmax(-1)
    places = range(len(before), ids.shape[1])
    return sum(logs[place - 1, ids[0, place]].item() for place in places), len(places)


@pytest.mark.parametrize("normalise", ["sum", "token", "character"])
@pytest.mark.parametrize("tokenizer", ["byte_level", "sentencepiece"])
def test_the_scores_are_those_of_the_whole_logits(network, request, tokenizer, normalise):
    tokenizer = request.getfixturevalue(tokenizer)
    task = MultipleChoice(column_names=NAMES, normalise=normalise)
    examples = task.encode(table(*ROWS), tokenizer, 100)
    outcomes = task.outcomes(network, task.collate(examples.items, 0, None))
    for (prompt, choices, answer), outcome in zip(ROWS, outcomes, strict=True):
        found = [by_hand(network, tokenizer, prompt, choice) for choice in choices]
        sizes = {"sum": [1] * len(choices), "token": [n for _, n in found], "character": [len(c) for c in choices]}
        scores = [total / size for (total, _), size in zip(found, sizes[normalise], strict=True)]
        assert outcome["scores"] == pytest.approx(scores, rel=1e-4)
        assert outcome["prediction"] == scores.index(max(scores))
        assert outcome["label"] == answer
        assert (outcome["loss"], outcome["tokens"]) == (pytest.approx(-found[answer][0], rel=1e-4), found[answer][1])


def test_the_loss_is_that_of_the_right_choices_tokens(network, byte_level):
    examples = TASK.encode(table(*ROWS), byte_level, 100).items
    loss = TASK.loss(network, TASK.collate(examples, 0, None)).item()
    right = [by_hand(network, byte_level, prompt, choices[answer]) for prompt, choices, answer in ROWS]
    assert loss == pytest.approx(-sum(total for total, _ in right), rel=1e-4)
    assert [TASK.items(example) for example in examples] == [tokens for _, tokens in right]


def test_the_first_rows_of_a_batch_are_the_batch_of_the_first_rows(byte_level):
    examples = TASK.encode(table(*ROWS, ROWS[1]), byte_level, 100).items
    found, asked = TASK.first_rows(TASK.collate(examples, 0, None), 2), TASK.collate(examples[:2], 0, None)
    assert found.keys() == asked.keys()
    assert all(torch.equal(found[name], asked[name]) for name in asked)


def test_virtual_tokens_stand_before_the_choices_and_have_no_likelihood(byte_level):
    from types import SimpleNamespace

    examples = TASK.encode(table(*ROWS), byte_level, 100).items
    plain = TASK.collate(examples, 0, None)
    given = TASK.collate(examples, 0, SimpleNamespace(count=3, first_id=310, after=0, infix=1))
    assert torch.equal(given["lengths"], plain["lengths"])
    assert (given["attention_mask"].sum(1) - plain["attention_mask"].sum(1)).tolist() == [3] * 5
    for row, mask, length in zip(given["input_ids"], given["attention_mask"], given["lengths"], strict=True):
        end = int(mask.sum())
        assert row[:2].tolist() == [310, 311]
        assert row[end - length - 1] == 312


def test_accuracy_is_the_share_of_right_choices():
    outcomes = [
        {"loss": 2.0, "tokens": 4, "label": 1, "prediction": 1, "scores": [-2.0, -1.0]},
        {"loss": 1.0, "tokens": 2, "label": 2, "prediction": 0, "scores": [-1.0, -2.0, -3.0]},
    ]
    assert TASK.metrics(outcomes, None) == {"accuracy": 0.5, "loss": 0.5}
    places = TASK.details(outcomes)["classes"]
    assert [(row["label"], row["n"], row["recall"]) for row in places] == [("A", 0, 0.0), ("B", 1, 1.0), ("C", 1, 0.0)]
    assert "per token" in TASK.signature("accuracy")


@pytest.mark.parametrize(
    ("value", "answer"), [(0, 0), (2, 2), ("2", 2), ("B", 1), ("mat", 1), ("C", 2), ("A", 0), ("log", 0)]
)
def test_an_answer_is_a_number_from_0_a_letter_or_the_text(value, answer):
    found = read_choice({"prompt": "p", "choices": ["log", "mat", "C"], "answer": value}, NAMES)
    assert found.answer == answer


def test_choices_may_have_labels_of_their_own():
    values = {"prompt": "p", "choices": {"text": ["log", "mat"], "label": ["1", "2"]}, "answer": "2"}
    assert read_choice(values, NAMES).answer == 1


@pytest.mark.parametrize(
    ("choices", "answer", "what"),
    [
        (["a", "b"], 2, "column 'answer' is 2, which is none of the 2 choices"),
        (["a", "b"], -1, "column 'answer' is -1, which is none"),
        (["a", "b"], True, "column 'answer' is True, which is none"),
        (["a", "b"], None, "column 'answer' is None, which is none"),
        (["a", "b"], "C", "column 'answer' is 'C', which is none"),
        (["a", "a"], 0, "the choice 'a' stands there twice"),
        (["a"], 0, "there is 1 choice, not two or more"),
        ([], 0, "there are no choices"),
        (["a", 3], 0, "one of the choices is 3, not text"),
        (["a", " "], 0, "one of the choices is ' ', not text"),
        (["a", None], 0, "one of the choices is None, not text"),
        ("a, b", 0, "column 'choices' is text, not a list of texts"),
        ({"text": ["a", "b"]}, 0, "is an object without lists text and label of one length"),
    ],
)
def test_what_is_wrong_with_a_row_is_told_with_its_line(choices, answer, what):
    (problem,) = TASK.problems(table(("p", choices, answer)))
    assert what in problem.what
    assert problem.where == "a.jsonl:1"


def test_choices_may_stand_in_columns_of_their_own(tmp_path, section):
    rows = [
        {"question": "a dog", "choice1": "ran", "choice2": "sat", "label": 1},
        {"question": "a cat", "choice1": "ran", "choice2": "sat", "label": "A"},
    ]
    splits = load_data(section("multiple-choice", rows), seed=0)
    assert splits.task.column_names == {
        "prompt": "question",
        "answer": "label",
        "choice1": "choice1",
        "choice2": "choice2",
    }
    assert [read_choice(row.values, splits.task.column_names).answer for row in splits.train.rows] == [1, 0]
    assert splits.summary["labels"]["train"] == {"A": 1, "B": 1}


def test_columns_are_named_by_the_recipe(section):
    rows = [{"ctx": "a", "good": "b", "bad": "c", "right": "b"}, {"ctx": "d", "good": "b", "bad": "c", "right": "b"}]
    columns = {"prompt": "ctx", "choice1": "good", "choice2": "bad", "answer": "right"}
    assert load_data(section("multiple-choice", rows, columns=columns), seed=0).task.column_names == columns
    with pytest.raises(RecipeError, match=r"data\.columns has no key 'choice'"):
        load_data(section("multiple-choice", rows, columns={**columns, "choice": "good"}), seed=0)


def test_choice_columns_keep_their_order_in_a_sorted_manifest(byte_level):
    names = {"prompt": "p", **{f"choice{n}": f"c{n}" for n in range(1, 12)}, "answer": "a"}
    task = MultipleChoice(column_names=dict(sorted(names.items())), normalise="sum")
    values = {"p": "x", "a": 9, **{f"c{n}": f"text {n}" for n in range(1, 12)}}
    found = read_choice(values, task_from_manifest(task.manifest()).column_names)
    assert found.texts[found.answer] == "text 10"


def test_a_row_that_is_too_long_loses_the_start_of_its_prompt(byte_level):
    examples = TASK.encode(table(ROWS[0]), byte_level, 8)
    assert examples.counts["truncated"] == 1
    whole = TASK.encode(table(ROWS[0]), byte_level, 100)
    for cut, part in zip(examples[0].parts, whole[0].parts, strict=True):
        learned = [label for label in part.ids["labels"] if label != -100]
        assert cut.ids["input_ids"][-len(learned) :] == learned
        assert part.ids["input_ids"][-cut.length :] == cut.ids["input_ids"]


def test_a_choice_that_does_not_fit_is_refused(byte_level):
    with pytest.raises(DataError, match="a choice alone is longer than 3 tokens"):
        TASK.encode(table(ROWS[0]), byte_level, 3)


@pytest.mark.parametrize(("prompt", "choice", "text"), [("a", "b", "a b"), ("a\n", "b", "a\nb"), ("a", " b", "a b")])
def test_a_space_parts_a_choice_from_its_prompt_unless_there_is_one(byte_level, prompt, choice, text):
    (example,) = TASK.encode(table((prompt, [choice, "x"], 0)), byte_level, 50)
    assert byte_level.decode(example.parts[0].ids["input_ids"]) == text
    assert example.parts[0].ids["labels"][:1] == [-100]
    assert byte_level.decode([i for i in example.parts[0].ids["labels"] if i != -100]) == text[1:]


def test_a_row_is_described_with_its_choices_and_their_scores():
    rows = table(("a dog", ["ran", "sat"], "sat"))
    outcome = {"loss": 3.0, "tokens": 2, "label": 1, "prediction": 0, "scores": [-1.0, -1.5]}
    asked = {"prompt": "a dog", "choices": ["ran", "sat"], "answer": 1}
    told = {"prediction": 0, "scores": [-1.0, -1.5], "loss": 1.5}
    assert TASK.describe(rows.rows[0], outcome) == {"where": "a.jsonl:1"} | asked | told
    assert read_choice({**rows.rows[0].values, "answer": TASK.some_answer(rows.rows[0])}, NAMES).answer == 0


def test_the_task_goes_through_its_manifest():
    task = MultipleChoice(column_names=NAMES, max_length=9, normalise="character")
    assert task_from_manifest(task.manifest()) == task
    with pytest.raises(ArtifactError):
        task_from_manifest({**task.manifest(), "normalise": "words"})
