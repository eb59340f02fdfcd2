"""What must be settled before torch and transformers are imported: threads, the network, and which process this is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


DEBUG = "PEFTCLI_DEBUG"  # whether tracebacks are shown; an inherited variable, so that every process of a launch knows


def prepare(*, offline: bool) -> None:
    """Set the variables that libraries read once, at import; what the user has set stays."""
    if offline:
        os.environ.update(dict.fromkeys(_OFFLINE, "1"))
    os.environ.setdefault("OMP_NUM_THREADS", str(available_cpus()))


def available_cpus() -> int:
    """Return how many CPUs this process may use: its affinity, bounded by the container's quota."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(affinity, _quota() or affinity))


def is_launched() -> bool:
    """Whether a launcher (peft train --nproc, torchrun, accelerate launch) has started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def end_with_parent(number: int) -> None:
    """Ask Linux to send this process signal ``number`` when the one that started it is gone: no orphans."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))


def installed_version(package: str) -> str:
    """Return the version of an installed package, for people to read."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def rank() -> int:
    """Return the number of this process among those of the run; 0 where there is only one."""
    return int(os.environ.get("RANK", "0"))


def _quota() -> int | None:
    try:
        allowed, period = _CPU_QUOTA.read_text(encoding="ascii").split()
        return None if allowed == "max" else int(allowed) // int(period)
    except (OSError, ValueError):
        return None  # not Linux, or not in such a container
