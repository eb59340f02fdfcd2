"""Bytes of a text file -> text: UTF-8 and nothing else."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import BinaryIO

from peftcli.data.complaints import Complaints
from peftcli.errors import DataError

_HINT = "Save the file as UTF-8."
_LONGEST_LINE = 2**28  # bytes; a longer one is a file without lines


def decode(content: bytes, name: str) -> str:
    """Return the text of a file; a byte order mark of UTF-8 is dropped.

    Raises:
        DataError: Some bytes are not UTF-8 text; each line is named with the byte's offset in the file.
    """
    start = _start(content, name)
    try:
        text = content[start:].decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        _explain(content, name)
    return text


def decoded_lines(file: BinaryIO, name: str) -> Iterator[str]:
    """Yield the lines of a file as it is read, each with the newline that ends it; at no other sign is it cut.

    Raises:
        DataError: A line is not UTF-8 text, or too long to be one.
    """
    number = offset = 0
    while line := file.readline(_LONGEST_LINE + 1):
        number += 1
        if len(line) > _LONGEST_LINE:
            raise DataError(f"a line of more than {_LONGEST_LINE >> 20} MiB", where=f"{name}:{number}")
        if number == 1:
            start = _start(line, name)
            line, offset = line[start:], start
        yield _line(line, name, number, offset)
        offset += len(line)


def _line(line: bytes, name: str, number: int, offset: int) -> str:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        complaints = Complaints(name)
        _explain_line(line, number, offset, complaints)
        complaints.raise_if_any()
    return text


def _start(content: bytes, name: str) -> int:
    """Return how many bytes a byte order mark takes."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError("the file is UTF-16 (byte order mark at byte offset 0)", where=f"{name}:1", hint=_HINT)
    return len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0


def _explain(content: bytes, name: str) -> None:
    complaints = Complaints(name)
    offset = 0
    for number, line in enumerate(content.split(b"\n"), start=1):
        _explain_line(line, number, offset, complaints)
        offset += len(line) + 1
    complaints.raise_if_any()


def _explain_line(line: bytes, number: int, offset: int, complaints: Complaints) -> None:
    if (nul := line.find(b"\0")) >= 0:
        complaints.add(f"NUL at byte offset {offset + nul}", f"{number}", "The file is UTF-16, or no text at all.")
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        at, byte = offset + error.start, line[error.start]
        complaints.add(f"byte 0x{byte:02x} at byte offset {at} is not UTF-8", f"{number}", _HINT)
