"""The linear probe: pooled features of the bare network, and the only minimum of its loss."""

import pytest
import torch
from untrained_runs import ROWS, recipe, run, save_base

from peftcli.artifact.artifact import open_artifact
from peftcli.data.tasks import task_from_manifest
from peftcli.data.tasks.classification import Classification
from peftcli.data.tasks.regression import Regression
from peftcli.errors import ArtifactError
from peftcli.methods.probe import fitted
from peftcli.pipeline.counting import params
from peftcli.pipeline.evaluation import EvaluationRequest, evaluate
from peftcli.pipeline.progress import Silent

COLUMNS = {"text": "text", "label": "label"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base"), "bert", None)


def data(rows: int = 40, width: int = 6) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0)) * torch.arange(1, width + 1) + 3


def test_ridge_regression_is_its_closed_form():
    x, l2 = data(), 2.0
    y = x @ torch.linspace(-1, 1, 6) + torch.randn(40, generator=torch.Generator().manual_seed(1))
    weight, bias = fitted(Regression(column_names=COLUMNS), x, y, l2)
    z = ((x - x.mean(0)) / x.std(0, correction=0)).double()
    # The task's loss is the squared error, so its gradient has a factor of 2 that that of l2/2 |W|^2 has not.
    own = torch.linalg.solve(2 * z.T @ z + l2 * torch.eye(6).double(), 2 * z.T @ (y - y.mean()).double())
    expected = z @ own + y.mean()
    torch.testing.assert_close((x @ weight.T + bias).squeeze(1), expected.float(), rtol=1e-3, atol=1e-3)


def test_logistic_regression_has_no_gradient_left():
    x, l2 = data(), 0.5
    y = (x[:, 0] + x[:, 3] > 15).long() + (x[:, 5] > 20).long()
    weight, bias = fitted(Classification(column_names=COLUMNS, labels=("a", "b", "c")), x, y, l2)
    mean, deviation = x.mean(0), x.std(0, correction=0)
    w = (weight * deviation).double().requires_grad_()
    b = (bias + weight @ mean).double().requires_grad_()
    loss = torch.nn.functional.cross_entropy(((x - mean) / deviation).double() @ w.T + b, y, reduction="sum")
    (loss + l2 / 2 * w.square().sum()).backward()
    assert max(float(w.grad.abs().max()), float(b.grad.abs().max())) < 1e-2 * len(x)
    accuracy = ((x @ weight.T + bias).argmax(1) == y).float().mean()
    assert accuracy > 0.85


def test_a_run_keeps_its_map_and_counts_it_as_a_head(base, tmp_path):
    finished = run(recipe(tmp_path, base, {"name": "probe"}))
    again = evaluate(finished.folder, EvaluationRequest(), Silent())
    assert again["metrics"]["delta"] == pytest.approx(finished.report["metrics"]["validation"])
    found = open_artifact(finished.folder).task_tensors()
    assert {name: len(tensor) for name, tensor in found.items()} == {"weight": 2, "bias": 2}
    size = sum(tensor.numel() for tensor in found.values())
    assert finished.report["parameters"]["head"] == size
    assert finished.report["parameters"]["delta"] == 0
    (counted,) = params(str(tmp_path / "recipe.yaml"), [], None, counted=False, budget=None)
    assert (counted["head"], counted["base"]) == (size, finished.report["parameters"]["base"])


def test_it_fits_rows_that_a_majority_cannot_tell_apart(base, tmp_path):
    finished = run(recipe(tmp_path, base, {"name": "probe", "l2": 1e-3}))
    assert finished.report["metrics"]["validation"]["accuracy"] == 1.0  # they are training rows


@pytest.mark.parametrize("pooling", ["base", "most", None])
def test_a_probe_that_does_not_say_what_it_reads_is_refused(pooling):
    task = {"name": "classification", "columns": COLUMNS, "max_length": 8, "labels": ["a", "b"]}
    manifest = {"name": "probed", "columns": COLUMNS, "max_length": 8, "of": task, "pooling": pooling}
    assert task_from_manifest(manifest | {"pooling": "mean"}).pooling == "mean"
    with pytest.raises(ArtifactError, match="has the pooling"):
        task_from_manifest(manifest)


def test_it_probes_for_numbers(base, tmp_path):
    rows = [{"text": row["text"], "label": float(n)} for n, row in enumerate(ROWS)]
    found = run(recipe(tmp_path, base, {"name": "probe", "l2": 1e-2}, rows, task="regression")).report
    assert found["metrics"]["validation"]["mse"] < 1.0
