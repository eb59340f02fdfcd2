"""Checkpoints: everything a run needs to go on as if nothing had happened, in folders that are whole or ignored."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from peftcli import files
from peftcli.data.batches import Position
from peftcli.errors import ArtifactError, Problem
from peftcli.training.log import from_json, to_json

FORMAT = 1
KEPT = 2  # the newest, and the one before in case the newest is damaged
TENSORS, STATE, LOG = "state.safetensors", "state.json", "log.jsonl"
_LOG_LIMIT = 2**33  # bytes; the manifest has checked the size by then


@dataclass(kw_only=True)
class RunState:
    """Where a run stands, apart from its tensors and its log.

    Attributes:
        step: Steps taken, those without effect included.
        position: The next batch.
        evaluated: The step of the last evaluation.
        best_step: The step of the best evaluation so far; None before the first.
        best_metrics: What was measured there.
        worse: Evaluations since then.
        unusable: The last so many steps had a loss or gradient that was not finite.
        stopped_early: Whether early stopping ended the run.
        seconds: Spent so far, over all processes that took the run up one after the other.
        resumed: How often that happened.
        proofs: What was proven so far.
        noted: What further proofs will be drawn from.
        scaler: The state of the gradient scaler of float16.
    """

    step: int = 0
    position: Position = field(default_factory=lambda: Position(0, 0))
    evaluated: int = 0
    best_step: int | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)
    worse: int = 0
    unusable: int = 0
    stopped_early: bool = False
    examples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    resumed: int = 0
    proofs: dict[str, Any] = field(default_factory=dict)
    noted: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the state for JSON."""
        return asdict(self) | {"best_metrics": to_json(self.best_metrics)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RunState:
        """Return the state that ``to_json`` wrote."""
        known = dict(content)
        known["position"] = Position(**known["position"])
        known["best_metrics"] = from_json(known["best_metrics"])
        return cls(**known)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A committed checkpoint as it was read."""

    folder: Path
    identity: dict[str, str]
    state: RunState
    tensors: dict[str, Tensor]
    log: bytes


class Checkpoints:
    """The checkpoints of one run.

    ``step-000123`` is for resuming and ``best-000123`` holds the best delta so far. A step's checkpoint names the
    best one it counts on, which therefore stays as long as it does.
    """

    def __init__(self, folder: Path, identity: Mapping[str, str]) -> None:
        self.folder = folder
        self.identity = dict(identity)

    def save(self, state: RunState, tensors: Mapping[str, Tensor], log: bytes) -> None:
        """Commit the checkpoint of ``state.step``, then let go of those that are no longer needed."""
        content = {"format": FORMAT, "identity": self.identity, "state": state.to_json()}
        self._commit(_name("step", state.step), tensors, content, log)
        self._prune(state.best_step)

    def keep_best(self, step: int, metrics: Mapping[str, float], tensors: Mapping[str, Tensor]) -> None:
        """Commit the delta that scored best so far; the one before stays until no checkpoint counts on it."""
        content = {"format": FORMAT, "identity": self.identity, "step": step, "metrics": to_json(dict(metrics))}
        self._commit(_name("best", step), tensors, content, None)

    def best(self, step: int) -> dict[str, Tensor]:
        """Return the tensors of the delta that ``keep_best`` kept at ``step``.

        Raises:
            ArtifactError: They are damaged.
        """
        folder = self.folder / _name("best", step)
        files.check_folder(folder)
        return load_file(folder / TENSORS)

    def newest(self, note: Callable[[str], None]) -> Checkpoint | None:
        """Return the newest checkpoint that is whole, or None where there is none at all.

        Args:
            note: Told of every damaged one that was passed over.

        Raises:
            ArtifactError: There are checkpoints, but none is whole, or it belongs to another run.
        """
        problems: list[Problem] = []
        for folder in self._steps():
            try:
                found = self._read(folder)
            except ArtifactError as error:
                problems += error.problems
                note(f"{folder.name} is damaged and passed over: {error.problems[0].what}")
            else:
                self._check_identity(found)
                return found
        if problems:
            hint = "Start over with --overwrite, or without --resume in another folder."
            raise ArtifactError([*problems, Problem(what="no checkpoint is whole", where=str(self.folder), hint=hint)])
        return None

    def tidy(self, found: Checkpoint | None) -> None:
        """Remove what a killed process left half written, and what is later than ``found``: it will come again."""
        step = found.state.step if found else -1
        self._remove([folder for kind in ("step", "best") for folder in self._found(kind) if _step(folder) > step])
        for leftover in self.folder.glob(".tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        self._prune(found.state.best_step if found else None)

    def _prune(self, best_step: int | None) -> None:
        """Let go of all but the newest checkpoints and the best deltas they count on."""
        steps = self._steps()
        counted_on = {best_step} | {_best_step(folder) for folder in steps[:KEPT]}
        self._remove(steps[KEPT:])
        self._remove([folder for folder in self._found("best") if _step(folder) not in counted_on])

    def _commit(self, name: str, tensors: Mapping[str, Tensor], content: dict[str, Any], log: bytes | None) -> None:
        def write(folder: Path) -> None:
            files.write_bytes(folder / TENSORS, save(dict(tensors), metadata={"format": "pt"}))
            files.write_json(folder / STATE, content)
            if log is not None:
                files.write_bytes(folder / LOG, log)

        files.commit_folder(self.folder / name, write, overwrite=True)

    def _read(self, folder: Path) -> Checkpoint:
        files.check_folder(folder)
        content = files.read_json(folder / STATE)
        if content.get("format") != FORMAT:
            raise ArtifactError(f"a checkpoint of format {content.get('format')}, not {FORMAT}", where=str(folder))
        state = RunState.from_json(content["state"])
        if state.best_step is not None:
            files.check_folder(self.folder / _name("best", state.best_step))
        return Checkpoint(
            folder=folder,
            identity=content["identity"],
            state=state,
            tensors=load_file(folder / TENSORS),
            log=files.read_bytes(folder / LOG, _LOG_LIMIT),
        )

    def _check_identity(self, found: Checkpoint) -> None:
        ours, theirs = self.identity, found.identity
        differing = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
        if differing:
            raise ArtifactError(
                f"the checkpoint belongs to another run: {', '.join(differing)} differ{'s' * (len(differing) == 1)}",
                where=str(found.folder),
                hint="Put back what it was made with, or start over with --overwrite.",
            )

    def _steps(self) -> list[Path]:
        return sorted(self._found("step"), key=_step, reverse=True)

    def _found(self, kind: str) -> list[Path]:
        return [p for p in self.folder.glob(f"{kind}-*") if p.is_dir() and p.name.removeprefix(f"{kind}-").isdigit()]

    def _remove(self, folders: list[Path]) -> None:
        for folder in folders:
            # Under another name first: half a folder must not look like a damaged checkpoint.
            aside = folder.with_name(f".tmp-{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)


def _name(kind: str, step: int) -> str:
    return f"{kind}-{step:06d}"


def _step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _best_step(folder: Path) -> int | None:
    """Return the step of the best delta that the checkpoint in ``folder`` counts on; a damaged one counts on none."""
    try:
        step: int | None = files.read_json(folder / STATE)["state"]["best_step"]
    except (ArtifactError, KeyError, TypeError):
        return None
    return step
