"""The one owner of randomness: seeds it, and turns its states into tensors and back."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch
from torch import Tensor

_LIMIT = 2**32  # numpy takes no larger seed


def seed_all(seed: int, rank: int = 0) -> None:
    """Seed Python, numpy and torch; each process of a run draws numbers of its own."""
    if rank:
        seed = int.from_bytes(hashlib.sha256(f"{seed}:{rank}".encode()).digest()[:8], "big") % _LIMIT
    random.seed(seed)
    np.random.seed(seed % _LIMIT)
    torch.manual_seed(seed)  # seeds CUDA too


def capture() -> dict[str, Tensor]:
    """Return the states of all generators as tensors."""
    _, words, spare = random.getstate()
    state = np.random.get_state(legacy=False)
    assert isinstance(state, dict), "numpy was asked for a mapping"
    words_of_numpy = np.append(state["state"]["key"].astype(np.int64), [state["state"]["pos"], state["has_gauss"]])
    states = {
        "python": torch.tensor(words, dtype=torch.int64),
        "python.spare": torch.tensor([spare is not None, spare or 0.0], dtype=torch.float64),
        "numpy": torch.from_numpy(words_of_numpy),
        "numpy.spare": torch.tensor([state["gauss"]], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore(states: dict[str, Tensor]) -> None:
    """Put all generators back into the states that ``capture`` returned."""
    present, spare = states["python.spare"].tolist()
    random.setstate((3, tuple(states["python"].tolist()), spare if present else None))
    *key, position, has_gauss = states["numpy"].tolist()
    np.random.set_state(
        {
            "bit_generator": "MT19937",
            "state": {"key": np.array(key, dtype=np.uint32), "pos": position},
            "has_gauss": has_gauss,
            "gauss": states["numpy.spare"].item(),
        }
    )
    torch.set_rng_state(states["torch"].cpu())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())


def to_bytes(states: dict[str, Tensor]) -> Tensor:
    """Return ``states`` as one row of bytes, which the processes of a run can gather.

    Shapes: the result (bytes); all processes of a run have the same number of them.
    """
    return torch.cat([states[name].contiguous().view(-1).view(torch.uint8) for name in sorted(states)])


def from_bytes(row: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the states in ``row``, whose names, types and shapes are those of ``like``."""
    states, start = {}, 0
    for name in sorted(like):
        end = start + like[name].numel() * like[name].element_size()
        # A copy starts on an address that every type may start on.
        states[name] = row[start:end].clone().view(like[name].dtype).view(like[name].shape)
        start = end
    return states
