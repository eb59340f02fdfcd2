"""Between torch's tensors and the bytes of a safetensors file."""

from __future__ import annotations

import torch

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F32": torch.float32,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
    "C64": torch.complex64,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def dtype_name(dtype: torch.dtype) -> str:
    """Return what safetensors calls ``dtype``."""
    return NAMES[dtype]


def from_bytes(content: bytearray | memoryview, dtype: str) -> torch.Tensor:
    """Return a flat tensor on the memory of ``content``, which must be writable."""
    if not len(content):
        return torch.empty(0, dtype=DTYPES[dtype])
    return torch.frombuffer(content, dtype=DTYPES[dtype])


def to_bytes(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of ``tensor``, without a copy where it lies contiguously in main memory."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return memoryview(flat.numpy())  # type: ignore[arg-type]  # its stubs do not say that it is a buffer
