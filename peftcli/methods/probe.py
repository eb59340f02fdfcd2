"""y = W h + b, with h a pooled vector of the frozen base model's last hidden states: a linear probe.

Logistic regression (for numbers: ridge regression) on features that are computed once: the task's loss, summed over the
training rows, plus λ/2 |W|², at its only minimum, with every feature at mean 0 and variance 1. What is kept are W and b
for the features as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from peftcli.delta.method import Card
from peftcli.delta.untrained import Untrained
from peftcli.errors import MethodError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from peftcli.base.anatomy import Anatomy
    from peftcli.data.tasks.task import Task
    from peftcli.delta.untrained import Frozen

STEPS = 200  # of L-BFGS, each with its own line search; a convex problem of this kind takes fewer


class Probe(Untrained):
    """What the frozen features know already; beside ``head``, the pooling is a choice and the fit is exact."""

    card = Card(
        title="Linear probe of frozen features",
        family="baseline",
        paper=None,
        size_setting=None,
        mergeable=False,
        starts_at_base=True,
        learning_rate=0.0,
        source="no gradient reaches the base model",
        traps=("few rows and many features want a larger l2",),
    )
    network_class: ClassVar[str] = "AutoModel"

    features: Literal["mean", "first", "last"] = "mean"
    """Of a row's last hidden states: their mean, the first (an encoder's pooled token) or the last (a decoder's)."""
    l2: Annotated[float, Field(gt=0)] = 1.0
    """λ, beside the loss summed over rows: scikit-learn's 1 / C."""

    def head_size(self, anatomy: Anatomy) -> int:
        """Return the size of W and b."""
        return (anatomy.width + 1) * (anatomy.labels or 0)

    def reframed(self, task: Task) -> Task:
        from peftcli.data.tasks.prior import has_prior
        from peftcli.data.tasks.probed import Probed

        if not has_prior(task):
            raise MethodError(
                f"probe has no answer to {task.name}: it maps one vector per row to one label or number",
                hint="Use it for classification or regression.",
            )
        return Probed.around(task, pooling=self.features)

    def learned(self, task: Task, frozen: Frozen) -> Task:
        import torch

        from peftcli.data.tasks.probed import Probed, features

        assert isinstance(task, Probed)

        def look(network: nn.Module, batch: Mapping[str, Tensor]) -> list[Any]:
            inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
            return list(zip(features(network, inputs).cpu(), batch["labels"].cpu(), strict=True))

        found = frozen.ask(task, frozen.train, look)
        with torch.inference_mode(False):
            x, y = (torch.stack([one[n].clone() for one in found]) for n in (0, 1))
            weight, bias = fitted(task.of, x, y, self.l2)
        return replace(task, weight=weight, bias=bias)


def fitted(task: Task, x: Tensor, y: Tensor, l2: float) -> tuple[Tensor, Tensor]:
    """Return W and b at the minimum of the task's summed loss plus l2/2 |W|², features standardised.

    Shapes: x (rows, width), y as the task's labels, W (outputs, width), b (outputs).
    """
    import torch

    from peftcli.data.tasks.reframed import scores

    x = x.double()
    mean, deviation = x.mean(0), x.std(0, correction=0)
    deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    z = (x - mean) / deviation
    outputs = int(task.network_settings()["num_labels"])
    weight = torch.zeros(outputs, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(outputs, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        (weight, bias), max_iter=STEPS, tolerance_grad=1e-6, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss: Any = task.loss(lambda: scores(z @ weight.T + bias), {"labels": y})  # type: ignore[arg-type]
        total: Tensor = loss + l2 / 2 * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(objective)  # type: ignore[no-untyped-call]
    weight, bias = weight.detach() / deviation, bias.detach()
    return weight.float(), (bias - weight @ mean).float()
