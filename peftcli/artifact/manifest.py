"""delta.json: what an artifact says of itself. Imports no torch."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from peftcli.errors import ArtifactError, Problem
from peftcli.manifest import read_json
from peftcli.recipe.settings import Settings

FORMAT = 1
DELTA_JSON = "delta.json"


class BaseIdentity(Settings):
    """Which base model a delta belongs to."""

    name: str
    commit: str | None
    family: str
    config: dict[str, Any]
    """Its config.json."""
    network: str | None = None
    """The transformers class the delta was trained in, such as BertForSequenceClassification."""
    network_config: dict[str, Any] = {}
    """What the run changed in the config besides the task's own settings, such as pad_token_id."""
    fingerprint: dict[str, str | int]
    dtype: str
    quantise: Literal["none", "nf4", "int8"] = "none"
    """In which form its projections were held."""


class TensorShape(Settings):
    """What delta.safetensors must say of one tensor."""

    shape: list[int]
    dtype: str


class DeltaManifest(Settings):
    """The content of delta.json, format 1."""

    format: Literal[1]
    peftcli: str
    methods: list[dict[str, Any]] = Field(min_length=1)
    base: BaseIdentity
    task: dict[str, Any] | None
    counts: dict[str, Any]
    tensors: dict[str, TensorShape]
    hf_peft: Literal["exact", "converted", "none"]
    hf_peft_reason: str | None
    versions: dict[str, str]
    seed: int


def read_delta_manifest(path: Path) -> DeltaManifest:
    """Read and check ``delta.json``.

    Raises:
        ArtifactError: It is damaged, or of a newer format than this peftcli knows.
    """
    content = read_json(path)
    if isinstance(content, dict) and type(content.get("format")) is int and content["format"] > FORMAT:
        raise ArtifactError(
            f"format {content['format']} needs peftcli >= {content.get('peftcli')}",
            where=str(path),
            hint=f"This is peftcli {version('peftcli')}: update it.",
        )
    if isinstance(content, dict) and content.get("format") is True:
        content["format"] = "true"  # to Python it is 1
    try:
        return DeltaManifest.model_validate_json(json.dumps(content))
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}".lstrip(": ") for e in error.errors()]
        raise ArtifactError(Problem(what=f"not a delta's: {p}", where=str(path)) for p in problems[:5]) from None


def versions() -> dict[str, str]:
    """Return the versions of what computes."""
    return {name: version(name) for name in ("peftcli", "torch", "transformers", "safetensors")}


def version(package: str) -> str:
    """Return the installed version of ``package``."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "0"
