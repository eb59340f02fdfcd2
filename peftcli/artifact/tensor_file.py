"""safetensors files, read and written piece by piece without torch.

The format: eight bytes of header length, a JSON header, the data. Reading is as strict as the reference: the tensors
cover the data without hole or overlap, and each has the bytes its shape and dtype ask for.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from peftcli import files
from peftcli.errors import ArtifactError, PeftcliError
from peftcli.manifest import no_constants, no_repeated_keys

HEADER_LIMIT = 100_000_000  # bytes, as in the reference
WIDTHS = {  # bytes of one number
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
}


@dataclass(frozen=True)
class TensorSpec:
    """What a header says of a tensor, wherever it lies."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """How many bytes it takes."""
        return self.numbers * WIDTHS[self.dtype]


@dataclass(frozen=True)
class TensorEntry(TensorSpec):
    """A tensor in a file; ``start`` is where its data begins, counted from the start of the file."""

    start: int


class TensorFile:
    """An open safetensors file."""

    def __init__(self, path: Path, refuse: type[PeftcliError] = ArtifactError) -> None:
        """Open ``path`` and check its header; what is wrong is raised as ``refuse``."""
        self.path = path
        self.refuse = refuse
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise refuse(f"cannot be read: {(error.strerror or '').lower()}", where=str(path)) from None
        try:
            self.metadata, self.entries = self._header()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)

    def read(self, name: str) -> bytearray:
        """Return a tensor's bytes."""
        entry = self.entries[name]
        buffer = bytearray(entry.bytes)
        self.read_into(memoryview(buffer), entry.start)
        return buffer

    def narrow(self, names: Mapping[str, str]) -> None:
        """Hold no tensors but these from here on, under the names they have here: new name -> stored name."""
        self.entries = {new: replace(self.entries[stored], name=new) for new, stored in names.items()}

    def read_into(self, buffer: memoryview, position: int) -> None:
        """Fill ``buffer`` with the file's bytes from ``position`` on."""
        while buffer:
            done = os.preadv(self.descriptor, [buffer], position)
            if not done:
                raise self.refuse("became shorter while it was read", where=str(self.path))
            buffer, position = buffer[done:], position + done

    def forget(self, start: int, count: int) -> None:
        """Tell the kernel that these bytes will not be read again."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.descriptor, start, count, os.POSIX_FADV_DONTNEED)

    def _header(self) -> tuple[dict[str, str], dict[str, TensorEntry]]:
        size = os.fstat(self.descriptor).st_size
        length = int.from_bytes(os.pread(self.descriptor, 8, 0), "little")
        if size < 8 or length > size - 8:
            raise self._bad(f"{size} bytes do not hold a header of {length}")
        if length > HEADER_LIMIT:
            raise self._bad(f"its header has {length} bytes, more than the {HEADER_LIMIT} allowed")
        raw = bytearray(length)
        self.read_into(memoryview(raw), 8)
        try:
            if raw[:1] != b"{":
                raise ValueError("it does not begin with a brace")
            header = json.loads(raw.decode(), object_pairs_hook=no_repeated_keys, parse_constant=no_constants)
        except (ValueError, RecursionError) as error:
            raise self._bad(f"its header is not JSON: {error}") from None
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
            raise self._bad("its metadata are not texts")
        found = [(name, *self._spec(name, value)) for name, value in header.items()]
        position = 0
        entries = {}
        for name, spec, begin, end in sorted(found, key=lambda item: item[2:]):
            if begin != position or end - begin != spec.bytes:
                raise self._bad(
                    f"{name} lies at {begin}-{end}, but {spec.bytes} bytes from {position} on were expected"
                )
            entries[name] = TensorEntry(name, spec.dtype, spec.shape, 8 + length + begin)
            position = end
        if 8 + length + position != size:
            raise self._bad(f"{size} bytes, but its header describes {8 + length + position}")
        return metadata, entries

    def _spec(self, name: str, value: Any) -> tuple[TensorSpec, int, int]:  # noqa: ANN401  # from JSON
        if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
            raise self._bad(f"its entry of {name} is not dtype, shape and data_offsets")
        dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
        if not isinstance(dtype, str) or dtype not in WIDTHS:
            raise self._bad(f"{name} has the dtype {dtype!r}, which is not known here")
        if not (_naturals(shape) and _naturals(offsets) and len(offsets) == 2):
            raise self._bad(f"{name} has a shape or offsets that are not whole numbers")
        return TensorSpec(name, dtype, tuple(shape)), offsets[0], offsets[1]

    def _bad(self, what: str) -> PeftcliError:
        return self.refuse(f"not a sound safetensors file: {what}", where=str(self.path))


class TensorWriter:
    """Fills a new safetensors file, tensor after tensor, in the order of ``specs``."""

    def __init__(self, file: files.NewFile, specs: Sequence[TensorSpec]) -> None:
        self._file = file
        self._rest = list(reversed(specs))
        self._missing = 0

    def begin(self, spec: TensorSpec) -> None:
        """Say which tensor comes now; it must be the one the header announced."""
        assert not self._missing, "the tensor before is not complete"
        announced = self._rest.pop()
        assert spec == announced, f"{spec.name} is not next"
        self._missing = spec.bytes

    def write(self, content: bytes | memoryview) -> None:
        """Append bytes of the tensor."""
        self._missing -= memoryview(content).nbytes
        self._file.write(content)

    def copy(self, source: TensorFile, start: int, count: int) -> None:
        """Append bytes of another file."""
        self._missing -= count
        self._file.copy(source.descriptor, start, count)

    def finish(self) -> None:
        """Check that everything announced was written."""
        assert not self._rest, "tensors are missing"
        assert not self._missing, "the last tensor is not complete"


@contextlib.contextmanager
def new_tensor_file(path: Path, specs: Sequence[TensorSpec]) -> Iterator[TensorWriter]:
    """Yield a writer of a safetensors file that bears its name when it is complete.

    Args:
        path: Its name.
        specs: Its tensors, as ``arranged`` orders them.

    Raises:
        ResourceError: It cannot be written.
    """
    header = _encoded(specs)
    with files.new_file(path, len(header) + sum(s.bytes for s in specs)) as file:
        file.write(header)
        writer = TensorWriter(file, specs)
        yield writer
        writer.finish()


def arranged(specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Return ``specs`` as a file holds them: wide dtypes first, which keeps every tensor aligned, then by name."""
    return sorted(specs, key=lambda s: (-WIDTHS[s.dtype], s.dtype, s.name))


def _encoded(specs: Sequence[TensorSpec]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for spec in specs:
        offsets = [position, position + spec.bytes]
        header[spec.name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": offsets}
        position += spec.bytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _naturals(value: Any) -> bool:  # noqa: ANN401  # from JSON
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)
