"""What is left behind when peftcli itself is at fault: one report file, and the words that point to it."""

from __future__ import annotations

import errno
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from peftcli import files
from peftcli.cli.environment import installed_version
from peftcli.errors import PeftcliError, ResourceError

_RESOURCES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE}
_PACKAGES = ("peftcli", "torch", "transformers", "accelerate", "safetensors", "numpy", "typer", "rich", "pydantic")


def translate(error: Exception, arguments: Sequence[str]) -> PeftcliError:
    """Return what the user is told about an error that no floor below has put into words."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, not imported for this
        first = (str(error).splitlines() or [""])[0]
        return ResourceError(
            f"out of memory{f': {first}' if first else ''}",
            hint="Lower training.micro_batch_size, evaluation.batch_size or data.max_length.",
        )
    if isinstance(error, OSError) and error.errno in _RESOURCES:
        return ResourceError(f"{error.strerror}".lower(), where=str(error.filename) if error.filename else None)
    report = write_report(error, arguments)
    return PeftcliError(
        f"internal error: {type(error).__name__}: {error}",
        hint=f"This is a mistake in peftcli, not yours; the report is {report}."
        if report
        else "This is a mistake in peftcli, not yours; repeat the command with --debug to see where.",
    )


def write_report(error: Exception, arguments: Sequence[str]) -> Path | None:
    """Write what a maintainer needs to know and return where; None if nowhere can be written."""
    name = f".peftcli-crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in (Path(), Path(tempfile.gettempdir())):
        try:
            files.write_text(folder / name, _report(error, arguments))
        except (OSError, PeftcliError):
            continue
        return folder / name
    return None


def _report(error: Exception, arguments: Sequence[str]) -> str:
    lines = [
        f"command: peft {' '.join(arguments)}",
        f"python: {sys.version.split()[0]} on {platform.platform()}",
        *(f"{package}: {installed_version(package)}" for package in _PACKAGES),
        "",
        "".join(traceback.format_exception(error)),
    ]
    return "\n".join(lines)
