"""Reading a committed folder: strict JSON, and a manifest that every file is checked against."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftcli.errors import ArtifactError

MANIFEST = "manifest.json"
JSON_LIMIT = 64 * 2**20  # bytes; no file of ours comes near it


@dataclass(frozen=True)
class FileEntry:
    """What a manifest says of one file."""

    bytes: int
    sha256: str


def read_json(path: Path, limit: int = JSON_LIMIT) -> Any:  # noqa: ANN401  # whatever the file holds
    """Read JSON strictly: no repeated keys, no NaN, no symbolic link, at most ``limit`` bytes.

    Raises:
        ArtifactError: The file is missing or is not such JSON.
    """
    where = str(path)
    content = read_bytes(path, limit)
    try:
        return json.loads(content.decode(), object_pairs_hook=no_repeated_keys, parse_constant=no_constants)
    except json.JSONDecodeError as error:
        raise ArtifactError(f"not JSON: {error.msg}", where=f"{where}:{error.lineno}:{error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"not JSON: {error}", where=where) from None


def read_bytes(path: Path, limit: int = JSON_LIMIT) -> bytes:
    """Read a regular file of at most ``limit`` bytes.

    Raises:
        ArtifactError: It is missing, a symbolic link, larger, or cannot be read.
    """
    size = _regular(path)
    if size > limit:
        raise ArtifactError(f"{size} bytes, more than the {limit} allowed", where=str(path))
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot be read: {error.strerror}", where=str(path)) from None


def read_manifest(folder: Path) -> dict[str, FileEntry]:
    """Return what ``folder``'s manifest says of its files.

    Raises:
        ArtifactError: There is none, it is damaged, or it names a file outside the folder.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise ArtifactError(f"no {MANIFEST}: the folder is not complete", where=str(folder))
    content = read_json(path)
    files = content.get("files") if isinstance(content, dict) else None
    if not isinstance(files, dict) or content.get("format") != 1 or content["format"] is True:
        raise ArtifactError("not a manifest of format 1", where=str(path))
    entries = {}
    for name, entry in files.items():
        parts = name.split("/")
        if not name or name.startswith("/") or "\\" in name or "\0" in name or {"", ".", ".."} & set(parts):
            raise ArtifactError(f"names {name!r}, which leaves the folder", where=str(path))
        if not isinstance(entry, dict) or set(entry) != {"bytes", "sha256"}:
            raise ArtifactError(f"the entry of {name} is not bytes and sha256", where=str(path))
        if type(entry["bytes"]) is not int or not isinstance(entry["sha256"], str):
            raise ArtifactError(f"the entry of {name} is not a number and a text", where=str(path))
        entries[name] = FileEntry(entry["bytes"], entry["sha256"])
    return entries


def check_folder(folder: Path) -> None:
    """Check every file of ``folder`` against its manifest: size, then SHA-256.

    Raises:
        ArtifactError: A file is missing, damaged, or a symbolic link.
    """
    for name, entry in sorted(read_manifest(folder).items()):
        path = folder / name
        inside = [path, *path.parents][: name.count("/") + 1]
        if any(p.is_symlink() for p in inside):
            raise ArtifactError("is a symbolic link", where=str(path), hint="Put the file itself there.")
        size = _regular(path)
        if size != entry.bytes:
            raise ArtifactError(f"{size} bytes, but the manifest says {entry.bytes}", where=str(path))
        if sha256_file(path) != entry.sha256:
            raise ArtifactError("damaged: its SHA-256 is not the one in the manifest", where=str(path))


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal.

    Raises:
        ArtifactError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ArtifactError(f"cannot be read: {error.strerror}", where=str(path)) from None


def _regular(path: Path) -> int:
    """Return the size of a regular file that is not a symbolic link."""
    if path.is_symlink():
        raise ArtifactError("is a symbolic link", where=str(path), hint="Put the file itself there.")
    if not path.exists():
        raise ArtifactError("the file is missing", where=str(path))
    if not path.is_file():
        raise ArtifactError("is not a file", where=str(path))
    return path.stat().st_size


def no_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object with a key that stands there twice: a hook for ``json.loads``."""
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} stands there twice")
    return result


def no_constants(name: str) -> Any:  # noqa: ANN401  # as json declares it
    """Refuse NaN and the infinities: a hook for ``json.loads``."""
    raise ValueError(f"{name} is not a number of JSON")
