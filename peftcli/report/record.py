"""The typed content of a report.json, format 1."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from peftcli.errors import ArtifactError, Problem

NAME = "report.json"
FORMAT = 1
Measured = dict[str, float | None]  # metric -> value; `n` is how many rows were measured
BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Part(BaseModel):
    """Frozen and strict; what a later version of peftcli adds inside format 1 is passed over."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", use_attribute_docstrings=True)


class BaseRecord(Part):
    """Which base model was adapted."""

    name: str
    commit: str | None = None
    family: str | None = None
    fingerprint: str | None = None
    dtype: str | None = None
    quantise: str | None = None


class SolvedBudget(Part):
    """A budget of a method, and the largest size within it."""

    method: str
    asked: str | int
    wanted: int = Field(ge=0)
    setting: str
    value: int | float
    achieved: int = Field(ge=0)
    limit: str | None = None
    """Why one step more was refused."""


class Parameters(Part):
    """The counts; the head stands apart from the delta."""

    base: int = Field(ge=0)
    delta: int = Field(ge=0)
    head: int = Field(ge=0)
    fraction: float
    """|delta| / |base|."""
    fraction_of_all: float
    """|delta| / (|base| + |delta|)."""
    method: str
    trained_during_training: int | None = None
    """With what the finished delta no longer holds."""
    per_layer: dict[str, int] = {}
    per_site: dict[str, int] = {}
    budgets: tuple[SolvedBudget, ...] = ()


class Metrics(Part):
    """What was measured, by whom it was computed: the un-tuned base, or the delta on a split."""

    base: Measured | None = None
    validation: Measured | None = None
    test: Measured | None = None


class Training(Part):
    """How the training went; the curves are lists of (step, value)."""

    steps: int = 0
    epochs: float | None = None
    examples: int | None = None
    tokens: int | None = None
    best_step: int | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    seed: int = 0
    processes: int | None = None
    stopped_early: bool | None = None
    losses: tuple[tuple[int, float | None], ...] = ()
    evaluations: tuple[tuple[int, Measured], ...] = ()
    learning_rates: tuple[tuple[int, float | None], ...] = ()


class Cost(Part):
    """What the run took."""

    seconds: float | None = None
    tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None
    artifact_bytes: int | None = None
    base_bytes: int | None = None


class Forgetting(Part):
    """Loss and perplexity of text that the base knew: before anything was attached, after training, the difference."""

    source: tuple[dict[str, Any], ...] = ()
    tokens: int | None = None
    before: Measured
    after: Measured
    change: Measured


class Report(Part):
    """One run: the recipe as resolved, the counts, the metrics and the cost."""

    name: str
    method: str
    recipe: dict[str, Any]
    base: BaseRecord
    parameters: Parameters
    metrics: Metrics
    intervals: dict[str, dict[str, tuple[float | None, float | None]]] = {}
    """What was measured (as in metrics) -> metric -> bounds of its 95 % bootstrap interval."""
    details: dict[str, dict[str, Any]] = {}
    """Split -> what a task shows beside its metrics."""
    signatures: dict[str, str] = {}
    """Metric -> how exactly it is computed."""
    select: str
    higher_is_better: bool
    training: Training
    cost: Cost
    data: dict[str, Any] = {}
    forgetting: Forgetting | None = None
    proofs: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    resumed: int = 0

    @property
    def score(self) -> float | None:
        """The metric that selects, on the validation rows."""
        return (self.metrics.validation or {}).get(self.select)

    @property
    def base_score(self) -> float | None:
        """The same metric of the un-tuned base."""
        return (self.metrics.base or {}).get(self.select)


def read_report(path: Path) -> Report:
    """Return the report of a run.

    Args:
        path: The run's folder, or its report.json.

    Raises:
        ArtifactError: There is none, it is damaged, or it is of a newer format.
    """
    file = path / NAME if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        what = f"{path} holds no {NAME}" if path.is_dir() else f"{path} does not exist"
        hint = "Name the folder of a finished run; the report is written when training ends."
        raise ArtifactError(what, hint=hint) from error
    except UnicodeDecodeError as error:
        raise ArtifactError("the report is not UTF-8 text", where=str(file), hint="Restore the file.") from error
    except OSError as error:
        raise ArtifactError(f"the report cannot be read: {error.strerror}", where=str(file)) from error
    return parse(text, str(file))


def parse(text: str, where: str) -> Report:
    """Return the report that ``text`` holds.

    Args:
        text: JSON.
        where: The file, for messages.

    Raises:
        ArtifactError: It is no report of a format this version reads; every wrong field is named.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"the report is not JSON ({error})", where=where, hint="Run `peft train` again, or restore the file."
        ) from error
    if not isinstance(document, dict) or "format" not in document:
        raise ArtifactError("the file is not a report of a run", where=where, hint="Name the folder of a finished run.")
    _check_format(document["format"], where)
    try:
        return Report.model_validate_json(json.dumps(_printable(document), sort_keys=True))
    except ValidationError as error:
        raise ArtifactError([_problem(e, where) for e in error.errors()]) from error


def _check_format(found: object, where: str) -> None:
    if found == FORMAT and not isinstance(found, bool):
        return
    newer = isinstance(found, int) and found > FORMAT
    raise ArtifactError(
        f"the report is of format {found!r:.40}; this peftcli reads format {FORMAT}",
        where=where,
        hint="Upgrade peftcli." if newer else "Run `peft train` again, or restore the file.",
    )


def _problem(error: Any, where: str) -> Problem:  # noqa: ANN401  # pydantic's ErrorDetails
    key = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return Problem(what=f"the report has no '{key}'", where=where)
    message = str(error["msg"])
    return Problem(
        what=f"'{key}' in the report is {error['input']!r:.60}: {message[:1].lower()}{message[1:]}", where=where
    )


def _printable(value: Any) -> Any:  # noqa: ANN401  # any JSON
    """Return ``value`` without characters that steer a terminal, turn text around or cannot be written."""
    if isinstance(value, str):
        return "".join(c if c in "\n\t" or _shown(c) else "\ufffd" for c in value)
    if isinstance(value, list):
        return [_printable(v) for v in value]
    if isinstance(value, dict):
        return {_printable(k): _printable(v) for k, v in value.items()}
    return value


def _shown(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cs") and character not in BIDI
