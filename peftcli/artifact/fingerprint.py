"""The fingerprint of a base model: a delta is only loaded onto the base it was trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peftcli.artifact.base_folder import BaseFolder, StoredTensor

SAMPLE = 4096  # bytes
CHUNK = 2**20


def fingerprint(folder: Path, *, strict: bool = False) -> dict[str, Any]:
    """Return the fingerprint of the base model in ``folder``, without torch.

    Args:
        folder: It holds safetensors files.
        strict: Whether to read every byte; otherwise 12 KiB of each tensor are read.

    Returns:
        ``tensors``: SHA-256 over the sorted names, dtypes and shapes; ``sample``: over the first, middle and last
        4 KiB of each tensor; ``full``, when strict: over all of it; ``parameters``: how many numbers are stored.

    Raises:
        BaseModelError: The files are missing or damaged.
    """
    tensors, sample, full = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    numbers = 0
    with BaseFolder(folder) as base:
        for name, stored in sorted(base.tensors.items()):
            entry = stored.entry
            numbers += entry.numbers
            tensors.update(f"{name}\0{entry.dtype}\0{','.join(map(str, entry.shape))}\n".encode())
            for start, count in _samples(entry.bytes):
                sample.update(_read(stored, start, count))
            for piece in _pieces(stored) if strict else ():
                full.update(piece)
    found: dict[str, Any] = {"tensors": tensors.hexdigest(), "sample": sample.hexdigest(), "parameters": numbers}
    return {**found, "full": full.hexdigest()} if strict else found


def _samples(size: int) -> list[tuple[int, int]]:
    if size <= 3 * SAMPLE:
        return [(0, size)]
    return [(0, SAMPLE), ((size - SAMPLE) // 2, SAMPLE), (size - SAMPLE, SAMPLE)]


def _read(stored: StoredTensor, start: int, count: int) -> memoryview:
    buffer = memoryview(bytearray(count))
    stored.file.read_into(buffer, stored.entry.start + start)
    return buffer


def _pieces(stored: StoredTensor) -> Iterator[memoryview]:
    for start in range(0, stored.entry.bytes, CHUNK):
        yield _read(stored, start, min(CHUNK, stored.entry.bytes - start))
