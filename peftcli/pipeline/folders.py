"""The folder of a run: who may write it, and when."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peftcli import files
from peftcli.errors import ResourceError

REPORT = "report.json"
CHECKPOINTS = "checkpoints"
LOCK = ".lock"


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
    above = [p for p in folder.parents if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"the run's folder cannot be made: {error.strerror}", where=str(folder)) from None
    with files.lock(folder):
        _refuse_another(folder, resume=resume, overwrite=overwrite)
        try:
            yield
        except BaseException:
            if [p.name for p in folder.iterdir()] == [LOCK]:
                shutil.rmtree(folder)  # nothing came of the run, so nothing of it stays
                with contextlib.suppress(OSError):  # another run may have begun beside it
                    for made in above:
                        made.rmdir()
            raise


def clear(folder: Path) -> None:
    """Remove what an earlier run left; called when nothing can be found wrong with the new one any more."""
    for path in folder.iterdir():
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _refuse_another(folder: Path, *, resume: bool, overwrite: bool) -> None:
    if resume or overwrite or [p.name for p in folder.iterdir()] == [LOCK]:
        return
    hint = "Choose another folder with --out, or write --overwrite."
    if not (folder / REPORT).exists() and (folder / CHECKPOINTS).exists():
        hint = "Continue it with --resume, choose another folder with --out, or write --overwrite."
    raise ResourceError("already exists", where=str(folder), hint=hint)
