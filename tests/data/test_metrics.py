"""Metrics against their formulas."""

import math

import pytest

from peftcli.data.tasks import CausalLm, Classification
from peftcli.errors import DataError

CLASSIFICATION = Classification(column_names={"text": "text", "label": "label"}, labels=("a", "b", "c"))
CAUSAL = CausalLm(column_names={"completion": "completion"})


def outcomes(*rows):
    return [{"loss": loss, "label": label, "prediction": prediction} for loss, label, prediction in rows]


def test_classification_measures_loss_accuracy_and_f1():
    found = outcomes((0.5, 0, 0), (1.5, 1, 0), (1.0, 2, 2), (1.0, 0, 0))
    values = CLASSIFICATION.metrics(found, None)
    assert values == pytest.approx({"accuracy": 0.75, "f1": (0.8 + 0 + 1) / 3, "loss": 1.0})
    assert list(CLASSIFICATION.metrics(found, ["loss"])) == ["loss"]


def test_causal_lm_averages_over_tokens():
    values = CAUSAL.metrics([{"loss": 6.0, "tokens": 2}, {"loss": 3.0, "tokens": 7}], None)
    assert values == pytest.approx({"loss": 1.0, "perplexity": math.e})


def test_less_loss_is_better_and_more_accuracy_is():
    assert CLASSIFICATION.higher_is_better("accuracy")
    assert not CLASSIFICATION.higher_is_better("loss")
    assert not CAUSAL.higher_is_better("perplexity")


@pytest.mark.parametrize("name", ["acuracy", "bleu", "perplexity"])
def test_an_unknown_metric_is_refused_with_the_known_ones(name):
    with pytest.raises(DataError, match=f"no metric is called '{name}'\n.*The task has accuracy, f1, loss"):
        CLASSIFICATION.metrics(outcomes((0.5, 0, 0)), [name])


def test_a_metric_module_that_is_not_there_is_refused():
    with pytest.raises(DataError, match=r"gone\.py: no such metric module"):
        CLASSIFICATION.check_metrics(["gone.py"])


MODULE = '''
"""Counts hits."""
import datasets
import evaluate


class Hits(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int32"), "references": datasets.Value("int32")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"hits": sum(a == b for a, b in zip(predictions, references))}
'''


@pytest.mark.filterwarnings("default")  # the evaluate library's own
def test_a_metric_module_of_the_user_is_run(tmp_path, monkeypatch):
    for name in ("HF_HOME", "HF_MODULES_CACHE", "HF_EVALUATE_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    module = tmp_path / "hits.py"
    module.write_text(MODULE)
    found = outcomes((0.5, 0, 0), (1.5, 1, 0), (1.0, 2, 2))
    assert CLASSIFICATION.metrics(found, ["accuracy", str(module)]) == pytest.approx({"accuracy": 2 / 3, "hits": 2})
    assert CLASSIFICATION.higher_is_better(str(module))
