"""What is proven before and after the first steps, so that no run is a silent no-op."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from peftcli.errors import DivergedError
from peftcli.training.modes import evaluating

if TYPE_CHECKING:
    from peftcli.data.batches import Batch
    from peftcli.data.tasks.task import Task
    from peftcli.delta.delta import Delta

STEPS = 3  # by then a gradient has passed two factors that were zero
SHOWN = 5
TOLERANCE = 1e-5  # relative, where everything is computed in float32
LOW_TOLERANCE = 2e-2  # and where it is not: a few units in the last place of bfloat16
SAMPLED = 2**20  # of a frozen tensor, at most about as many numbers are watched

# The softmax does not see a shift of all keys, so this gradient is zero but for rounding.
_WITHOUT_GRADIENT = re.compile(r"(^|\.)(W_k|key|k_proj|k_lin)\.(bias|shift)(\.\w+)?$")
_PIECE = 2**20
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Proofs:
    """The proofs of one run.

    Attributes:
        results: What was found, for the report; JSON.
    """

    def __init__(
        self,
        delta: Delta,
        results: Mapping[str, Any],
        *,
        warmup: int = 0,
        noted: Mapping[str, Any] | None = None,
    ) -> None:
        """Note how everything stands before the first step.

        Args:
            delta: On its device.
            results: Of the same run so far.
            warmup: Steps after which a tensor that stands where it stood is an error.
            noted: What was noted of the same steps before the run was resumed.
        """
        self.results = dict(results)
        self._warmup = warmup
        self._trained = delta.trained()
        self._frozen = {n: p for n, p in delta.base.network.named_parameters() if not p.requires_grad}
        self._frozen_before = checksums(self._frozen.values(), SAMPLED)
        noted = noted or {"steps": 0, "reached": [False] * len(self._trained), "before": None}
        self._trained_before: list[int] | None = noted["before"]
        if self._trained_before is None and not self._complete:
            self._trained_before = checksums(self._trained.values())
        self._reached: list[bool] = list(noted["reached"])
        self._steps: int = noted["steps"]

    @property
    def noted(self) -> dict[str, Any]:
        """What conclusions are still to be drawn from; JSON."""
        return {"steps": self._steps, "reached": self._reached, "before": self._trained_before}

    @property
    def _complete(self) -> bool:
        return "tensors_moved" in self.results

    def gradients(self) -> None:
        """Note, before a step is taken, which tensors have a gradient."""
        if "tensors_with_gradient" in self.results:
            return
        present = [(index, p.grad) for index, p in enumerate(self._trained.values()) if p.grad is not None]
        if present:
            norms = torch.stack([norm.float() for norm in torch._foreach_norm([g for _, g in present])]).tolist()
            for (index, _), norm in zip(present, norms, strict=True):
                self._reached[index] |= norm > 0

    def stepped(self) -> None:
        """Draw the conclusions that are due after a step was taken.

        Raises:
            DivergedError: A trained tensor got no gradient or did not move, or a frozen tensor did.
        """
        if self._complete:
            return
        self._steps += 1
        if "tensors_with_gradient" not in self.results and self._steps > 1:
            self._check_gradients(last=self._steps >= STEPS)
        if "tensors_with_gradient" in self.results:
            self._check_moves(last=self._steps >= max(STEPS, self._warmup + 1))

    def finish(self) -> None:
        """Draw the last conclusion.

        Raises:
            DivergedError: A frozen tensor moved.
        """
        self._check_frozen()

    def _check_gradients(self, *, last: bool) -> None:
        without = [address for address, reached in zip(self._trained, self._reached, strict=True) if not reached]
        unexplained = self._unexplained(without)
        if not unexplained:
            self.results["tensors_with_gradient"] = len(self._trained) - len(without)
            self.results["tensors_without_gradient"] = without
        elif last:
            raise DivergedError(
                f"{len(unexplained)} of {len(self._trained)} trained tensors received no gradient "
                f"in {self._steps} steps: {_some(unexplained)}",
                hint="Nothing that the loss depends on passes through them: train fewer sites or other layers.",
            )

    def _check_moves(self, *, last: bool) -> None:
        assert self._trained_before is not None, "noted at the start"
        moved = [a != b for a, b in zip(self._trained_before, checksums(self._trained.values()), strict=True)]
        still = self._unexplained([a for a, one in zip(self._trained, moved, strict=True) if not one])
        if not still:
            self.results["tensors_moved"] = sum(moved)
            self._trained_before = None
            self._check_frozen()
        elif last:
            raise DivergedError(
                f"{len(still)} of {len(self._trained)} trained tensors did not move in {self._steps} steps, "
                f"though they received gradients: {_some(still)}",
                hint="Their type is too coarse for this learning rate: raise it, or use base.dtype=float32.",
            )

    def _unexplained(self, resting: list[str]) -> list[str]:
        """Return those of the ``resting`` tensors that should not rest.

        A few entries of a table need not be met by the first batches, and the head may not read all of the base: those
        say ``may_rest``.
        """
        excused = {a for a, p in self._trained.items() if getattr(p, "may_rest", False)}
        return [a for a in resting if a not in excused and not _WITHOUT_GRADIENT.search(a)]

    def _check_frozen(self) -> None:
        after = checksums(self._frozen.values(), SAMPLED)
        moved = [n for n, a, b in zip(self._frozen, self._frozen_before, after, strict=True) if a != b]
        self.results["frozen_tensors"] = len(self._frozen)
        self.results["frozen_tensors_moved"] = len(moved)
        if moved:
            raise DivergedError(
                f"{len(moved)} of {len(self._frozen)} frozen tensors moved in training: {_some(moved)}",
                hint="The method writes into the base model: report this as a bug of the method.",
            )


def prove_before(
    delta: Delta, task: Task, batch: Batch, device: torch.device, precision: str = "float32"
) -> dict[str, Any]:
    """Prove, on the first batch, that training can begin, and return what was found.

    Args:
        delta: As it was attached.
        task: Whose outcomes are compared.
        batch: The first one.
        device: Where the network is.
        precision: What the network computes in.

    Raises:
        DivergedError: Nothing trains, no label is asked for, or the delta does not start at the base.
    """
    trained = delta.trained()
    if not trained:
        raise DivergedError("nothing trains", hint="Choose a method that trains something (see 'peft methods').")
    if not batch.items:
        raise DivergedError(
            "every label of the first batch is masked", hint="Look at the supervised tokens with 'peft data'."
        )
    difference = None
    if delta.starts_at_base and batch.micro:
        # A few rows show it; a whole batch of a large vocabulary would cost memory.
        rows = {name: tensor.to(device) for name, tensor in task.first_rows(batch.micro[0], 2).items()}
        difference = _difference_from_base(delta, task, rows, precision)
    return _sizes(delta) | {"supervised_items": batch.items, "difference_from_base": difference}


def proven_before(results: Mapping[str, Any], delta: Delta) -> dict[str, Any]:
    """Return what still holds of ``results`` as a new phase begins, which may train other tensors."""
    return _sizes(delta) | {name: results[name] for name in ("supervised_items", "difference_from_base")}


def _sizes(delta: Delta) -> dict[str, Any]:
    trained = delta.trained().values()
    return {"trained_tensors": len(trained), "trained_numbers": sum(p.numel() for p in trained)}


def checksums(tensors: Iterable[Tensor], most: int | None = None) -> list[int]:
    """Return one number per tensor that changes when the tensor does.

    Args:
        tensors: On any devices, of any types.
        most: Look at about as many numbers of each tensor, in even distances; default: at all.
    """
    tensors = [tensor.detach() for tensor in tensors]
    weights: dict[torch.device, Tensor] = {}
    for tensor in tensors:
        if tensor.device not in weights:
            weights[tensor.device] = _weights(max(t.numel() for t in tensors)).to(tensor.device)
    sums = [_checksum(tensor, weights[tensor.device], most) for tensor in tensors]
    by_device: dict[torch.device, list[int]] = {}
    for index, one in enumerate(sums):
        by_device.setdefault(one.device, []).append(index)
    result = [0] * len(sums)
    for indices in by_device.values():
        for index, value in zip(indices, torch.stack([sums[i] for i in indices]).tolist(), strict=True):
            result[index] = value
    return result


def _weights(longest: int) -> Tensor:
    """Return random weights: two labels' biases move by the same amount in opposite directions, and sums cancel."""
    count = min(longest, _PIECE)
    return torch.randint(-(2**62), 2**62, (count,), generator=torch.Generator().manual_seed(0)) * 2 + 1


def _checksum(tensor: Tensor, weights: Tensor, most: int | None) -> Tensor:
    # Whole numbers: a sum of floats would lose small changes, a sum of their bits wraps around and loses none.
    flat = tensor.reshape(-1)
    if most is not None and len(flat) > most:
        flat = flat[:: -(-len(flat) // most)].contiguous()
    total = weights.new_zeros(())
    for piece in torch.split(flat.view(_WORDS[min(flat.element_size(), 8)]), _PIECE):
        total = total * 31 + (piece.long() * weights[: len(piece)]).sum()
    return total


@torch.no_grad()
def _difference_from_base(delta: Delta, task: Task, rows: dict[str, Tensor], precision: str) -> float:
    network = delta.base.network
    with evaluating(network):
        adapted = _losses(task, network, rows)
        with delta.disabled():
            base = _losses(task, network, rows)
    difference = float((adapted - base).abs().max())
    low = {torch.bfloat16, torch.float16}
    exact = precision == "float32" and not any(p.dtype in low for p in network.parameters())
    tolerance = (TOLERANCE if exact else LOW_TOLERANCE) * max(1.0, float(base.abs().max()))
    if not difference <= tolerance:  # NaN is no small difference
        raise DivergedError(
            f"the delta does not start at the base: the outcomes differ by {difference:.3g}",
            hint="The method's card says that it starts at the base: report this as a bug of the method.",
        )
    return difference


def _losses(task: Task, network: nn.Module, rows: dict[str, Tensor]) -> Tensor:
    """Return the loss of each row: unlike a prediction it cannot jump where two answers are equally good."""
    return torch.tensor([outcome["loss"] for outcome in task.outcomes(network, rows)])


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
