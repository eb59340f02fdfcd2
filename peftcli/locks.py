"""Who holds a folder, and what dead processes left in it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from peftcli.errors import ResourceError

LOCK = ".lock"


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process; what a killed process left behind is taken over and tidied up.

    Raises:
        ResourceError: A living process holds it, or it cannot be written.
    """
    import fcntl  # not on every platform that can read a recipe

    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise ResourceError(f"cannot be written: {(error.strerror or '').lower()}", where=str(folder)) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES) or _held_by_living(descriptor):
                raise ResourceError(f"in use by {_holder(descriptor)}", where=str(folder)) from None
        start = datetime.now(UTC).isoformat("T", "seconds")
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "start": start}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode(), 0)
        remove_leftovers(folder)
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, name: str = "") -> None:
    """Remove the temporary files and folders (of ``name``) that dead processes left in ``folder``."""
    for path in folder.glob(".tmp-*"):
        stem, _, number = path.name.rpartition("-")
        if name and stem != temporary_name(name).rpartition("-")[0]:
            continue
        if number.isdigit() and (int(number) == os.getpid() or not _alive(int(number))):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def temporary_name(name: str) -> str:
    """Return what a file or folder is called while this process writes it."""
    return f".tmp-{name.encode()[:200].decode(errors='ignore')}-{os.getpid()}"  # a name has at most 255 bytes


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _held_by_living(descriptor: int) -> bool:
    """Where the file system has no flock: whether the process named in the lock lives (or cannot be asked)."""
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
        return owner["host"] != socket.gethostname() or (owner["pid"] != os.getpid() and _alive(owner["pid"]))
    except (ValueError, KeyError, TypeError):
        return False


def _holder(descriptor: int) -> str:
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
        return f"pid {owner['pid']} on host {owner['host']} since {owner['start']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
