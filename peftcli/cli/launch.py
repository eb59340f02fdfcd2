"""``peft train --nproc N``: several processes on one machine, started by torch's own launcher and spoken for as one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from peftcli import files
from peftcli.cli.environment import DEBUG, available_cpus, is_launched, rank
from peftcli.errors import DistributedError, PeftcliError, Problem, Stopped

# Names the folder in which the processes of one launch leave word of how they ended.
FOLDER = "PEFTCLI_LAUNCH_FOLDER"
DEATHS = "deaths.json"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """How one process ended, in its own words."""

    rank: int
    time: float
    exit_code: int
    problems: tuple[Problem, ...]


def should_launch(processes: int) -> bool:
    """Whether several processes are wanted and this one is not among them already."""
    return processes > 1 and not is_launched()


def command(processes: int, arguments: Sequence[str]) -> list[str]:
    """Return what starts ``peft ARGUMENTS`` in ``processes`` processes."""
    launcher = [sys.executable, "-m", "peftcli.cli.ranks", "--standalone", f"--nproc-per-node={processes}"]
    return [*launcher, "-m", "peftcli", *arguments]


def environment(processes: int, folder: Path) -> dict[str, str]:
    """Return the environment of the processes: the CPUs are shared out among them."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(available_cpus())
    share = max(1, min(int(threads), available_cpus()) // processes)
    quiet = {} if DEBUG in os.environ else {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # advice for programmers, from every rank
    return {**quiet, **os.environ, "OMP_NUM_THREADS": str(share), FOLDER: str(folder)}


def launch(processes: int, arguments: Sequence[str]) -> None:
    """Run ``peft ARGUMENTS`` in ``processes`` processes and wait for them.

    Raises:
        PeftcliError: A process failed; the error is that of the first one, or a DistributedError if it died wordless.
        SystemExit: A signal stopped the processes before anything was saved.
    """
    with tempfile.TemporaryDirectory(prefix="peftcli-") as name:
        folder = Path(name)
        # A session of its own: Ctrl-C reaches the ranks once, through us, and not a second time from the terminal.
        with (
            subprocess.Popen(
                command(processes, arguments), env=environment(processes, folder), start_new_session=True
            ) as process,
            _forwarded_signals(process) as received,
        ):
            exit_code = process.wait()
        failures = _failures(folder)
        if received and not failures:
            raise SystemExit(128 + received[0])  # as a shell reports a signal: nothing was saved
        if exit_code:
            raise outcome(failures, _deaths(folder), stopping=bool(received))


def record_failure(mistake: PeftcliError) -> bool:
    """Leave word of this process's end for the one that launched it; False if nobody waits for it."""
    folder = os.environ.get(FOLDER)
    if not folder or not is_launched() or not Path(folder).is_dir():
        return False
    problems = [{"what": p.what, "where": p.where, "hint": p.hint} for p in mistake.problems]
    entry = {"rank": rank(), "time": time.time(), "exit_code": mistake.exit_code, "problems": problems}
    files.write_json(Path(folder) / f"rank-{rank()}.json", entry)
    return True


def outcome(failures: Sequence[Failure], deaths: Mapping[int, int], *, stopping: bool = False) -> PeftcliError:
    """Return the one error that tells how a launch ended.

    Args:
        failures: What the processes said of their ends.
        deaths: Exit status by rank, as the launcher saw it; negative for a signal.
        stopping: Whether the processes were asked to stop.
    """
    spoken = sorted(failures, key=lambda f: f.time)
    stopped = [f for f in spoken if f.exit_code == Stopped.exit_code]
    # A process that dies without a word is the cause of what the others then say about their connections, and of
    # their being stopped by the launcher.
    silent = [(r, code) for r, code in sorted(deaths.items()) if r not in {f.rank for f in spoken}]
    killed = [(r, code) for r, code in silent if code in (-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGBUS)]
    if stopped and (stopping or (spoken[0] in stopped and not killed)):
        return Stopped(stopped[0].problems)
    causes = [f for f in spoken if f.exit_code not in (1, DistributedError.exit_code, Stopped.exit_code)]
    if causes and not killed:
        return _same_kind(causes[0])
    if killed or (silent and not spoken):
        r, code = (killed or silent)[0]
        return DistributedError(f"rank {r} {_ending(code)}", hint=_hint(code, saved=bool(stopped)))
    if spoken:
        first = spoken[0]
        return DistributedError(
            [Problem(what=f"rank {first.rank}: {p.what}", where=p.where, hint=p.hint) for p in first.problems]
        )
    return DistributedError("the processes could not be started", hint="Run again with --debug to see torch's message.")


def _same_kind(failure: Failure) -> PeftcliError:
    kinds = {k.exit_code: k for k in _subclasses(PeftcliError)}
    return kinds.get(failure.exit_code, DistributedError)(failure.problems)


def _subclasses(kind: type[PeftcliError]) -> Iterator[type[PeftcliError]]:
    for subclass in kind.__subclasses__():
        yield from _subclasses(subclass)
        yield subclass  # after its own: the general kind wins where two share an exit code


def _ending(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"


def _hint(code: int, *, saved: bool) -> str | None:
    memory = "Often that is the machine running out of memory." if code == -signal.SIGKILL else ""
    return f"{memory}{' A checkpoint was saved: continue with --resume.' if saved else ''}".strip() or None


def _failures(folder: Path) -> list[Failure]:
    entries = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("rank-*.json"))]
    return [Failure(**{**e, "problems": tuple(Problem(**p) for p in e["problems"])}) for e in entries]


def _deaths(folder: Path) -> dict[int, int]:
    path = folder / DEATHS
    return {int(r): c for r, c in json.loads(path.read_text(encoding="utf-8")).items()} if path.exists() else {}


@contextmanager
def _forwarded_signals(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Pass the first SIGINT, SIGTERM or SIGHUP on to the processes; end them at once on the second."""
    received: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        received.append(number)
        process.send_signal(number if len(received) == 1 else signal.SIGKILL)

    previous: dict[int, Callable[[int, FrameType | None], object] | int | None] = {
        number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
