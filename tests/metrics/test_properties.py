"""What holds for every metric, whatever the data."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftcli.metrics import registry
from peftcli.metrics.modules import scored

HERE = {kind: [n for n in names if n not in registry.ELSEWHERE] for kind, names in registry.NAMES.items()}
EVERY = [(kind, name) for kind, names in HERE.items() for name in names]
TEXTS = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))["texts"]["examples"]
WORD = st.sampled_from(["The", "cat's", "£20", "dogs,", "dog;", "ran-off", "(cheap)", "3.5", ".", "a", "I'm"])
WORDS = st.lists(WORD, max_size=8).map(" ".join)
TAG = st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B"])
ROW = st.lists(st.integers(0, 1), min_size=3, max_size=3)
# (prediction, truth) of one example.
EXAMPLES = {
    "classes": st.tuples(st.integers(0, 3), st.integers(0, 3)),
    "multilabel": st.tuples(ROW, ROW),
    "numbers": st.tuples(*2 * (st.floats(-1e6, 1e6),)),
    "tags": st.lists(st.tuples(TAG, TAG), max_size=6).map(lambda pairs: ([a for a, _ in pairs], [b for _, b in pairs])),
    "answers": st.tuples(WORDS, st.lists(WORDS, max_size=3)),
    "texts": st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3)),
}
# What a perfect prediction is worth, for those that have a ceiling.
BEST = {
    **dict.fromkeys((name for _, name in EVERY), 1.0),
    **dict.fromkeys(("mse", "mae", "hamming", "ter"), 0.0),
    **dict.fromkeys(("bleu", "bleu_lowercase", "chrf"), 100.0),
}


def on(kind, name, examples):
    return scored(kind, name, [said for said, _ in examples], [known for _, known in examples])


def value(kind, name, examples):
    return on(kind, name, examples).value


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_the_order_of_examples_does_not_matter_and_values_are_numbers(kind, name):
    @settings(max_examples=25, deadline=None, database=None)
    @given(st.lists(EXAMPLES[kind], min_size=1, max_size=6), st.randoms(use_true_random=False))
    def holds(examples, random):
        first = value(kind, name, examples)
        assert math.isfinite(first)
        assert value(kind, name, random.sample(examples, len(examples))) == pytest.approx(first, rel=1e-6, abs=1e-9)

    holds()


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_any_part_of_the_rows_has_a_value(kind, name):
    @settings(max_examples=15, deadline=None, database=None)
    @given(st.lists(EXAMPLES[kind], min_size=1, max_size=5), st.lists(st.integers(0, 99), max_size=8))
    def holds(examples, chosen):
        whole = on(kind, name, examples)
        assert whole.rows.shape[0] == len(examples)
        assert whole.rows.dtype == np.float64
        part = whole.score(whole.rows[np.array(chosen, dtype=int) % len(examples)])
        assert math.isfinite(part)

    holds()


PERFECT = {
    "classes": [(n % 3, n % 3) for n in range(9)],
    "multilabel": [([1, 0, 1], [1, 0, 1]), ([0, 0, 0], [0, 0, 0]), ([0, 1, 1], [0, 1, 1])],
    "numbers": [(n / 7, n / 7) for n in range(9)],
    "tags": [(["B-A", "I-A", "O"],) * 2, (["O", "B-B"],) * 2],
    "answers": [("the tea room", ["nothing", "tea room"]), ("", []), ("1887", ["1887"])],
    "texts": [(one["references"][0], one["references"]) for one in TEXTS],
}


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_perfect_predictions_score_best(kind, name):
    perfect = value(kind, name, PERFECT[kind])
    if name in ("nist", "cider"):  # no ceiling in common: they have one for each set of references
        others = [(one["prediction"], one["references"]) for one in TEXTS]
        assert perfect > value(kind, name, others)
    elif name == "meteor":  # one chunk is still a chunk: 1 - 0.5 / words^3
        assert 0.98 < perfect <= 1
    else:
        assert perfect == pytest.approx(BEST[name])


@pytest.mark.parametrize("name", HERE["texts"])
def test_texts_of_other_words_are_worth_less_than_the_right_ones(name):
    examples = [(one["prediction"], one["references"]) for one in TEXTS]
    shuffled = [(one["prediction"], TEXTS[number - 1]["references"]) for number, one in enumerate(TEXTS)]
    right, wrong = value("texts", name, examples), value("texts", name, shuffled)
    assert wrong > right if name == "ter" else wrong <= right
    assert registry.higher_is_better(name) == (name != "ter")


def test_one_text_worth_ten_of_cider():
    examples = [(one["references"][0], one["references"][:1]) for one in TEXTS]
    assert value("texts", "cider", examples) == pytest.approx(10.0)


@pytest.mark.parametrize("name", ["bleu", "bleu_lowercase", "chrf", "ter"])
def test_the_sum_of_rows_is_the_librarys_corpus_value(name):
    from peftcli.metrics.texts import sacrebleu_metric

    examples = [(one["prediction"], one["references"]) for one in TEXTS]
    columns = [[known[k] if k < len(known) else None for _, known in examples] for k in range(4)]
    library = sacrebleu_metric(name).corpus_score([text for text, _ in examples], columns).score
    assert value("texts", name, examples) == pytest.approx(library, abs=1e-9)
