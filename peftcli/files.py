"""The one module that writes: every file and every folder appears whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from peftcli.errors import ResourceError
from peftcli.locks import lock, remove_leftovers, temporary_name
from peftcli.manifest import MANIFEST, FileEntry, check_folder, read_bytes, read_json, read_manifest, sha256_file

__all__ = [
    "FileEntry",
    "NewFile",
    "append_line",
    "check_folder",
    "check_new",
    "check_room",
    "commit_folder",
    "lock",
    "new_file",
    "read_bytes",
    "read_json",
    "read_manifest",
    "remove_leftovers",
    "sha256_file",
    "sync_folder",
    "write_bytes",
    "write_json",
    "write_text",
]

CHUNK = 2**20

# Called before every file operation with its name, so that a test can make the Nth one fail.
_operations: Callable[[str], None] | None = None


class NewFile:
    """A file that is being written and does not bear its name yet."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, content: bytes | memoryview) -> None:
        """Append ``content``."""
        rest = memoryview(content).cast("B")
        while rest:
            _operation("write")
            rest = rest[os.write(self._descriptor, rest) :]

    def copy(self, source: int, offset: int, count: int) -> None:
        """Append ``count`` bytes of the open file ``source``, inside the kernel where it can."""
        while count and hasattr(os, "copy_file_range"):
            _operation("copy")
            try:
                done = os.copy_file_range(source, self._descriptor, min(count, 2**30), offset)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
                    raise
                break
            if not done:
                break
            offset, count = offset + done, count - done
        while count:
            chunk = os.pread(source, min(count, CHUNK), offset)
            if not chunk:
                raise OSError(errno.EIO, "the file that is copied became shorter")
            self.write(chunk)
            offset, count = offset + len(chunk), count - len(chunk)


@contextlib.contextmanager
def new_file(path: Path, size: int = 0) -> Iterator[NewFile]:
    """Yield a file that replaces ``path`` when the block ends well, and vanishes when it does not.

    Args:
        path: Its name; a symbolic link is refused.
        size: How many bytes it will have, for the message when the disk is full.

    Raises:
        ResourceError: It cannot be written.
    """
    temporary = path.with_name(temporary_name(path.name))
    with _explained(path, size):
        if path.is_symlink():
            raise ResourceError("will not write through a symbolic link", where=str(path), hint="Remove the link.")
        temporary.unlink(missing_ok=True)  # only a dead process of our number can have left it
        _operation("open")
        # The kernel applies the umask to 0o666.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            try:
                yield NewFile(descriptor)
                _operation("fsync")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            _operation("rename")
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all.

    Raises:
        ResourceError: The disk is full, the folder may not be written, ``path`` is a symbolic link.
    """
    with new_file(path, len(content)) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, object: Any) -> None:  # noqa: ANN401  # whatever JSON can hold
    """Write ``object`` as canonical JSON: the same object gives the same bytes.

    Raises:
        ValueError: It holds NaN or an infinity, which JSON does not know.
    """
    write_text(path, json.dumps(object, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def append_line(path: Path, text: str) -> None:
    """Append one line in one operation; a line that does not fit leaves the file as it was."""
    content = text.encode() + b"\n"
    with _explained(path, len(content)):
        _operation("append")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o666)
        try:
            before = os.fstat(descriptor).st_size
            if os.write(descriptor, content) < len(content):
                os.ftruncate(descriptor, before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` outlive a power cut."""
    with _explained(folder):
        _operation("fsync folder")
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def commit_folder(
    final: Path, write: Callable[[Path], None], *, manifest: bool = True, overwrite: bool = False
) -> None:
    """Let ``write`` fill a temporary folder, seal it with a manifest and give it its name.

    Args:
        final: The name; its parent is made when it is missing.
        write: Writes files, through this module, into the folder it is given.
        manifest: Whether to put sizes and SHA-256 of all files into ``manifest.json``, as the last file.
        overwrite: Whether a folder of that name is replaced; the old one stays until the new one is complete.

    Raises:
        ResourceError: ``final`` exists, or something cannot be written.
    """
    temporary = final.with_name(temporary_name(final.name))
    check_new(final, overwrite=overwrite)
    with _explained(final):
        _operation("mkdir")
        final.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(final.parent, final.name)
        temporary.mkdir()
        try:
            write(temporary)
            if manifest:
                write_json(temporary / MANIFEST, {"format": 1, "files": _entries(temporary)})
            for folder in (temporary, *(p for p in temporary.rglob("*") if p.is_dir())):
                sync_folder(folder)
            check_new(final, overwrite=overwrite)
            _exchange(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(final.parent)


def check_new(path: Path, *, overwrite: bool = False) -> None:
    """Check that ``path`` is free, or may be replaced.

    Raises:
        ResourceError: It is taken.
    """
    if path.is_symlink():
        raise ResourceError("will not write through a symbolic link", where=str(path), hint="Remove the link.")
    if path.exists() and not overwrite:
        raise ResourceError("already exists", where=str(path), hint="Choose another folder, or give --overwrite.")


def check_room(path: Path, needed: int = 0) -> None:
    """Check, before any work is done, that ``path`` could be written and ``needed`` bytes are free.

    Raises:
        ResourceError: It could not.
    """
    with _explained(path, needed):
        folder = next(p for p in (path, *path.absolute().parents) if p.exists())
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if shutil.disk_usage(folder).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _operation(name: str) -> None:
    if _operations is not None:
        _operations(name)


@contextlib.contextmanager
def _explained(path: Path, needed: int = 0) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        hint = None
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            existing = next((p for p in path.absolute().parents if p.exists()), Path("/"))
            hint = f"{needed} bytes are needed and {shutil.disk_usage(existing).free} are free on that disk."
        raise ResourceError(f"cannot be written: {reason}", where=_shown(path), hint=hint) from error


def _shown(path: Path) -> str:
    """Return ``path`` as it will be called when it is complete."""
    return str(Path(*(re.sub(r"^\.tmp-(.*)-\d+$", r"\1", part) for part in path.parts)))


def _exchange(temporary: Path, final: Path) -> None:
    """Give ``temporary`` the name ``final``; what bore it before goes aside first and comes back if that fails."""
    aside = temporary.with_name(temporary.name.replace(".tmp-", ".tmp-old-", 1))
    old = final.exists()
    if old:
        _operation("rename")
        final.rename(aside)
    try:
        _operation("rename")
        temporary.rename(final)
    except BaseException:
        if old:
            aside.rename(final)
        raise
    if old:
        shutil.rmtree(aside, ignore_errors=True) if aside.is_dir() else aside.unlink()


def _entries(folder: Path) -> dict[str, dict[str, Any]]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): {"bytes": p.stat().st_size, "sha256": sha256_file(p)} for p in files}
