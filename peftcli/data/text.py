"""Bytes of a text file -> text: UTF-8 and nothing else."""

from __future__ import annotations

import codecs

from peftcli.data.complaints import Complaints
from peftcli.errors import DataError

_HINT = "Save the file as UTF-8."


def decode(content: bytes, name: str) -> str:
    """Return the text of a file; a byte order mark of UTF-8 is dropped.

    Raises:
        DataError: Some bytes are not UTF-8 text; each line is named with the byte's offset in the file.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError("the file is UTF-16 (byte order mark at byte offset 0)", where=f"{name}:1", hint=_HINT)
    start = len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0
    try:
        text = content[start:].decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        _explain(content, name)
    return text


def _explain(content: bytes, name: str) -> None:
    complaints = Complaints(name)
    offset = 0
    for number, line in enumerate(content.split(b"\n"), start=1):
        if (nul := line.find(b"\0")) >= 0:
            complaints.add(f"NUL at byte offset {offset + nul}", f"{number}", "The file is UTF-16, or no text at all.")
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            at = offset + error.start
            complaints.add(f"byte 0x{content[at]:02x} at byte offset {at} is not UTF-8", f"{number}", _HINT)
        offset += len(line) + 1
    complaints.raise_if_any()
