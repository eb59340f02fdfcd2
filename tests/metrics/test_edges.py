"""Empty, constant and missing things have defined values; warnings are errors here."""

import numpy as np
import pytest

from peftcli.errors import DataError
from peftcli.metrics import answers, classes, multilabel, numbers, registry, tags, texts

KIND_NAMES = {kind: [n for n in names if n not in registry.ELSEWHERE] for kind, names in registry.NAMES.items()}


def of_classes(name, labels, predictions, count=3):
    return classes.scored(name, np.array(labels), np.array(predictions), count).value


@pytest.mark.parametrize("name", KIND_NAMES["classes"])
def test_one_class_alone_is_perfectly_predicted_but_correlates_with_nothing(name):
    assert of_classes(name, [1, 1, 1], [1, 1, 1]) == (0.0 if name == "matthews" else 1.0)


def test_a_class_that_was_never_seen_counts_against_its_prediction():
    assert of_classes("f1", [0, 0, 1], [0, 2, 1]) == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert of_classes("f1_weighted", [0, 0, 1], [0, 2, 1]) == pytest.approx((2 * 2 / 3 + 1) / 3)
    assert of_classes("f1", [0, 1], [0, 1], count=9) == 1.0


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in KIND_NAMES.items() for name in names])
def test_no_examples_are_worth_nothing(kind, name):
    none = np.zeros(0, dtype=int)
    scored = {
        "classes": lambda: classes.scored(name, none, none, 2),
        "multilabel": lambda: multilabel.scored(name, np.zeros((0, 3)), np.zeros((0, 3))),
        "numbers": lambda: numbers.scored(name, none, none),
        "tags": lambda: tags.scored(name, [], []),
        "answers": lambda: answers.scored(name, [], []),
        "texts": lambda: texts.scored(name, [], []),
    }[kind]()
    assert scored.value == 0.0
    assert len(scored.rows) == 0


@pytest.mark.parametrize("name", ["pearson", "spearman"])
@pytest.mark.parametrize("constant", [0.1, 0.0, -3e7])
def test_a_constant_prediction_correlates_with_nothing(name, constant):
    targets = np.arange(7.0)
    assert numbers.scored(name, targets, np.full(7, constant)).value == 0.0
    assert numbers.scored(name, np.full(7, constant), targets).value == 0.0
    assert numbers.scored(name, targets[:1], targets[:1]).value == 0.0


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_a_correlation_does_not_depend_on_scale(scale):
    targets = np.array([1.0, 2.0, 4.0, 3.0])
    assert numbers.scored("pearson", targets, targets * scale).value == pytest.approx(1.0)
    assert numbers.scored("pearson", targets, -targets * scale).value == pytest.approx(-1.0)


@pytest.mark.parametrize("name", ["f1", "precision", "recall"])
def test_without_entities_there_is_nothing_to_find(name):
    assert tags.scored(name, [["O", "O"]], [["O", "O"]]).value == 0.0
    assert tags.scored(name, [[]], [[]]).value == 0.0
    assert tags.entity_table([["O"]], [["O"]]) == []


def test_an_entity_is_right_only_as_a_whole_and_i_may_begin_one():
    assert tags.entities(["I-A", "I-A", "B-A", "I-B", "O", "B"]) == {("A", 0, 1), ("A", 2, 2), ("B", 3, 3), ("", 5, 5)}
    actual, guess = [["B-A", "I-A", "O", "B-B"]], [["B-A", "O", "O", "B-B"]]
    assert tags.scored("f1", actual, guess).value == 0.5
    assert tags.scored("accuracy", actual, guess).value == 0.75
    assert tags.entity_table(actual, guess) == [
        {"label": "A", "n": 1, "precision": 0.0, "recall": 0.0, "f1": 0.0},
        {"label": "B", "n": 1, "precision": 1.0, "recall": 1.0, "f1": 1.0},
    ]


def test_sentences_of_other_lengths_are_not_compared():
    with pytest.raises(ValueError, match="shorter"):
        tags.scored("accuracy", [["O", "O"]], [["O"]])


def test_labels_that_are_not_there_are_rightly_not_predicted():
    labels = np.array([[0, 0], [0, 0]])
    assert multilabel.scored("f1_samples", labels, labels).value == 1.0
    assert multilabel.scored("f1_micro", labels, labels).value == 0.0
    assert multilabel.scored("hamming", labels, 1 - labels).value == 1.0


@pytest.mark.parametrize("name", KIND_NAMES["texts"])
def test_empty_texts_have_a_value(name):
    worst = texts.scored(name, ["", ""], [["a cheap tea room"], ["near the river", "by it"]]).value
    assert worst > 90 if name == "ter" else worst == 0
    assert np.isfinite(texts.scored(name, ["words", ""], [["", "words"], [""]]).value)


def test_no_answer_is_the_empty_text():
    def both(prediction, references):
        return [answers.scored(name, [prediction], [references]).value for name in ("exact_match", "f1")]

    assert both("", []) == both("", [""]) == both("The", ["a", "!"]) == [1.0, 1.0]
    assert both("Brenna", []) == both("", ["Brenna"]) == [0.0, 0.0]
    assert both("the Copper Kettle.", ["tea", "copper  kettle"]) == [1.0, 1.0]


def test_a_text_without_a_reference_is_refused():
    with pytest.raises(DataError, match="example 2 has no reference"):
        texts.scored("bleu", ["a", "b"], [["a"], []])
    with pytest.raises(DataError, match="there are 1 texts and references for 2"):
        texts.scored("bleu", ["a"], [["a"], ["b"]])


def test_tables_of_classes_are_their_counts():
    labels, predictions = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 2])
    assert classes.confusion(labels, predictions, 3) == [[1, 1, 0], [0, 2, 1], [0, 0, 0]]
    assert classes.class_table(labels, predictions, ["no", "yes", "maybe"]) == [
        {"label": "no", "n": 2, "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3)},
        {
            "label": "yes",
            "n": 3,
            "precision": pytest.approx(2 / 3),
            "recall": pytest.approx(2 / 3),
            "f1": pytest.approx(2 / 3),
        },
        {"label": "maybe", "n": 0, "precision": 0.0, "recall": 0.0, "f1": 0.0},
    ]
