"""Answers of a linear map of the frozen base model's features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, get_args

from peftcli.data.tasks.reframed import Reframed, scores
from peftcli.errors import ArtifactError
from peftcli.recipe.recipe import Pooling

if TYPE_CHECKING:
    from torch import Tensor, nn

    from peftcli.data.tasks.task import Task

_NAMES = ("weight", "bias")


@dataclass(frozen=True, kw_only=True)
class Probed(Reframed):
    """A linear map of one vector per row, which ``pooling`` names.

    Attributes:
        weight: Shapes: (outputs, width).
        bias: Shapes: (outputs).
    """

    name: ClassVar[str] = "probed"
    model_class: ClassVar[str] = "AutoModel"

    weight: Tensor | None = field(default=None, compare=False, repr=False)
    bias: Tensor | None = field(default=None, compare=False, repr=False)

    @classmethod
    def reopened(cls, of: Task, manifest: Mapping[str, Any]) -> Self:
        """Return what :meth:`manifest` described; its tensors come apart."""
        if manifest.get("pooling") not in set(get_args(Pooling)) - {"base"}:
            raise ArtifactError(f"the artifact's task has the pooling {manifest.get('pooling')!r}")
        return cls.around(of, pooling=manifest["pooling"])

    def manifest(self) -> dict[str, Any]:
        """Return what must be known to measure with it later, for JSON."""
        return {**super().manifest(), "pooling": self.pooling}

    def tensors(self) -> dict[str, Tensor]:
        """Return the map."""
        return {name: tensor for name in _NAMES if (tensor := getattr(self, name)) is not None}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """Return the task with its map."""
        outputs = self.of.network_settings().get("num_labels")
        ranks = {name: tensor.dim() for name, tensor in tensors.items()}
        if ranks != {"weight": 2, "bias": 1} or {len(tensor) for tensor in tensors.values()} != {outputs}:
            raise ArtifactError(
                f"the probe's tensors are {sorted(ranks)}, not a weight and a bias for {outputs} outputs"
            )
        return replace(self, weight=tensors["weight"], bias=tensors["bias"])

    def answering(self, network: nn.Module) -> Any:  # noqa: ANN401
        """Return what maps the features of a batch."""

        def answer(**inputs: Tensor) -> Any:  # noqa: ANN401
            found = features(network, inputs)
            assert self.weight is not None
            assert self.bias is not None
            return scores(found @ self.weight.to(found).T + self.bias.to(found))

        return answer


def features(network: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the pooled vector of every row, in float32. Shapes: (batch, width)."""
    hidden: Tensor = network(**inputs).last_hidden_state
    return hidden[:, 0].float()
