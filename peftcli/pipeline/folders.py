"""The folder of a run: who may write it, and when."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peftcli import files
from peftcli.errors import ResourceError

REPORT = "report.json"
CHECKPOINTS = "checkpoints"


@contextmanager
def run_folder(folder: Path, *, resume: bool, overwrite: bool, main: bool) -> Iterator[None]:
    """Hold ``folder`` for one run; only the main process asks and locks.

    Raises:
        ResourceError: It holds another run, or one that is going on.
    """
    if not main:
        yield
        return
    if folder.exists() and not folder.is_dir():
        raise ResourceError("is not a folder", where=str(folder), hint="Choose another with --out.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"the run's folder cannot be made: {error.strerror}", where=str(folder)) from None
    with files.lock(folder):
        _clear(folder, resume=resume, overwrite=overwrite)
        yield


def _clear(folder: Path, *, resume: bool, overwrite: bool) -> None:
    kept = [p for p in folder.iterdir() if p.name != ".lock"]
    if not kept or resume:
        return
    if not overwrite:
        finished = (folder / REPORT).exists()
        hint = "Choose another folder with --out, or write --overwrite."
        if not finished and (folder / CHECKPOINTS).exists():
            hint = "Continue it with --resume, choose another folder with --out, or write --overwrite."
        raise ResourceError("already exists", where=str(folder), hint=hint)
    for path in kept:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
