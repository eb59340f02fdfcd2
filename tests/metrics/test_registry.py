"""Names, signatures, and the metrics as modules of the evaluate library."""

import subprocess
import sys

import pytest

from peftcli.metrics import answers, classes, multilabel, numbers, registry, tags, texts
from peftcli.metrics.modules import as_evaluate


def test_every_name_has_its_computation():
    assert set(registry.NAMES["texts"]) == set(texts.SCORES)
    assert set(registry.NAMES["answers"]) == set(answers.SCORES)
    assert set(registry.NAMES["multilabel"]) == {*multilabel.FROM_COUNTS, *multilabel.PER_EXAMPLE}
    assert set(registry.NAMES["classes"]) == {"accuracy", "f1_micro", *classes.FROM_COUNTS}
    assert set(registry.NAMES["numbers"]) == {"mse", "mae", *numbers.CORRELATIONS}
    assert set(registry.NAMES["tags"]) == {"accuracy", *tags.FROM_COUNTS}


@pytest.mark.parametrize(("kind", "name"), [(k, name) for k, names in registry.NAMES.items() for name in names])
def test_every_metric_says_what_computed_it(kind, name):
    signature = registry.signature(name, kind)
    assert any(f"{package}:" in signature for package in ("peftcli", "version", "rouge-score", "nltk")), signature


def test_signatures_carry_the_options():
    assert registry.signature("bleu").startswith(
        "sacrebleu BLEU|nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp|version:"
    )
    assert "case:lc" in registry.signature("bleu_lowercase")
    assert "exact,stem" in registry.signature("meteor")


def test_a_name_that_is_not_there_is_not_found():
    with pytest.raises(KeyError):
        registry.signature("perplexity_of_nothing")
    with pytest.raises(KeyError):
        texts.scored("perplexity_of_nothing", ["a"], [["a"]])


def test_less_is_better_where_it_is_an_error():
    worse = {name for names in registry.NAMES.values() for name in names if not registry.higher_is_better(name)}
    assert worse == {"mse", "mae", "hamming", "ter"}


def test_names_are_read_without_anything_heavy():
    code = "import sys, peftcli.metrics.registry, peftcli.metrics.texts; print({'numpy', 'nltk'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


@pytest.mark.filterwarnings("default")  # the evaluate library's own
def test_the_evaluate_library_computes_the_same_offline(tmp_path, monkeypatch):
    for name in ("HF_HOME", "HF_MODULES_CACHE", "HF_EVALUATE_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    assert as_evaluate("accuracy").compute(predictions=[0, 1, 1], references=[0, 1, 0]) == {"accuracy": 2 / 3}
    assert as_evaluate("mae").compute(predictions=[0.5], references=[1.0]) == {"mae": 0.5}
    assert as_evaluate("hamming").compute(predictions=[[0, 1]], references=[[0, 0]]) == {"hamming": 0.5}
    assert as_evaluate("recall").compute(predictions=[["B-A"]], references=[["B-A"]]) == {"recall": 1.0}
    assert as_evaluate("f1", "answers").compute(predictions=["tea"], references=[["the tea", "no"]]) == {"f1": 1.0}
    pair = {
        "predictions": ["A cheap tea room.", "It is near."],
        "references": [["A cheap tea room!"], ["Near.", "It is."]],
    }
    found = as_evaluate("bleu").compute(**pair)
    assert found == {"bleu": texts.scored("bleu", *pair.values()).value}
