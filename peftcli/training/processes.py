"""What the processes of one run do together; with a single process, nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from peftcli.errors import DistributedError
from peftcli.training import randomness

if TYPE_CHECKING:
    from accelerate import Accelerator

_PATCHED = ("forward", "_original_forward", "_is_accelerate_prepared")


@contextmanager
def prepared(accelerator: Accelerator, network: nn.Module) -> Iterator[nn.Module]:
    """Yield what is trained: ``network`` on its device, under mixed precision, wrapped where there are processes.

    Afterwards ``network`` is what it was, but for its device.
    """
    before = {name: network.__dict__[name] for name in _PATCHED if name in network.__dict__}
    network.__dict__.pop("_is_accelerate_prepared", None)  # for evaluation, without what training needs
    try:
        wrapped: nn.Module = accelerator.prepare(network)
        yield wrapped
    finally:
        # Accelerate's own way back (unwrap_model) strips the decorators of transformers from forward as well.
        for name in _PATCHED:
            network.__dict__.pop(name, None)
        network.__dict__.update(before)


def check_agreement(accelerator: Accelerator, facts: Mapping[str, str]) -> None:
    """Check that all processes say the same about ``facts``; every process finds out.

    Raises:
        DistributedError: One does not.
    """
    if accelerator.num_processes == 1:
        return
    digests = [hashlib.sha256(f"{name}={facts[name]}".encode()).digest() for name in sorted(facts)]
    row = torch.tensor([int.from_bytes(d[:8], "big", signed=True) for d in digests], device=accelerator.device)
    rows: Tensor = accelerator.gather(row).view(accelerator.num_processes, len(digests)).cpu()
    for rank, other in enumerate(rows):
        if differing := [
            name for name, same in zip(sorted(facts), (other == rows[0]).tolist(), strict=True) if not same
        ]:
            raise DistributedError(
                f"process {rank} disagrees with process 0 about {', '.join(differing)}",
                hint="Start all processes with the same recipe, versions, data and run folder.",
            )


def sum_over_processes(accelerator: Accelerator, numbers: Tensor) -> Tensor:
    """Return the sum of every process's ``numbers``."""
    if accelerator.num_processes == 1:
        return numbers
    total: Tensor = accelerator.reduce(numbers, reduction="sum")
    return total


def any_process(accelerator: Accelerator, flag: bool) -> bool:
    """Return whether ``flag`` is up in any process."""
    if accelerator.num_processes == 1:
        return flag
    return bool(sum_over_processes(accelerator, torch.tensor(float(flag), device=accelerator.device)) > 0)


def gather_randomness(accelerator: Accelerator) -> dict[str, Tensor]:
    """Return the random states of all processes as ``rank0.torch`` and so on."""
    own = randomness.capture()
    rows = [randomness.to_bytes(own)]
    if accelerator.num_processes > 1:
        gathered: Tensor = accelerator.gather(rows[0].to(accelerator.device))
        rows = list(gathered.view(accelerator.num_processes, -1).cpu())
    return {
        f"rank{rank}.{name}": state
        for rank, row in enumerate(rows)
        for name, state in randomness.from_bytes(row, own).items()
    }


def take_up_randomness(accelerator: Accelerator, tensors: Mapping[str, Tensor], step: int) -> None:
    """Restore this process's random state, or, where ``tensors`` holds none for it, begin one of its own."""
    start = f"rank{accelerator.process_index}."
    if own := {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}:
        randomness.restore(own)
    elif accelerator.process_index:
        # The seed that the run was begun with is torch's; the step keeps masks from coming twice.
        randomness.seed_all(torch.initial_seed() + step, accelerator.process_index)


def difference_in_number(accelerator: Accelerator, tensors: Mapping[str, Tensor]) -> str | None:
    """Return what to tell if not as many processes wrote the random states in ``tensors`` as now take them up."""
    before = sum(name.startswith("rank") and name.endswith(".torch") for name in tensors)
    if before == accelerator.num_processes:
        return None
    return (
        f"the checkpoint was written by {before} processes and is taken up by {accelerator.num_processes}: "
        "the batches are the same, the numbers only up to rounding and dropout"
    )
