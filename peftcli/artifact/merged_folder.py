"""What lies beside the weights of a merged model: its config, its tokenizer, and where it comes from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peftcli import files
from peftcli.artifact.artifact import Artifact
from peftcli.artifact.manifest import versions
from peftcli.base.config_file import CONFIG
from peftcli.data.tasks import task_from_manifest
from peftcli.delta.method import Method
from peftcli.delta.registry import describe
from peftcli.errors import BaseModelError, MethodError

PROVENANCE = "peftcli.json"
CHAT_TEMPLATE = "chat_template.jinja"  # transformers reads it before what stands in the tokenizer's config
TORCH_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
COMPANIONS = (  # what a tokenizer, a generation or a licence may be kept in
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "spiece.*",
    "generation_config.json",
    "chat_template.*",
    "preprocessor_config.json",
    "processor_config.json",
    "LICENSE*",
    "NOTICE*",
)


def merged_config(
    config: Mapping[str, Any], artifact: Artifact, dtype: str | None, *, whole: bool = True
) -> dict[str, Any]:
    """Return the config.json under which transformers opens the merged model.

    Args:
        config: The base model's.
        artifact: The delta; its task says the labels, its base the network.
        dtype: Of the merged model, in safetensors' words, where it is not the base model's.
        whole: Whether the head is merged too, so that the network is the task's.
    """
    own = artifact.manifest.base
    merged = dict(config)
    if whole:
        merged |= {**own.network_config, "architectures": [own.network] if own.network else None}
    if whole and artifact.manifest.task:
        settings = task_from_manifest(artifact.manifest.task).network_settings()
        settings.pop("num_labels", None)  # transformers counts id2label
        merged |= settings
    if dtype:
        merged.pop("torch_dtype", None)  # the older name of the same key
        merged["dtype"] = TORCH_NAMES[dtype]
    merged.pop("auto_map", None)
    return merged


def provenance(
    artifact: Artifact, base: Path, fingerprint: Mapping[str, Any], staying: Sequence[Method]
) -> dict[str, Any]:
    """Return peftcli.json: what was merged, onto what, and for which task.

    Args:
        artifact: The delta.
        base: The folder of the base model.
        fingerprint: Of that folder.
        staying: Methods that are not folded; beside them lies the head, so the merged model has no task.
    """
    own = artifact.manifest
    recorded = {k: v for k, v in own.base.model_dump(mode="json").items() if k != "config"}
    return {
        "format": 1,
        "merged_from": [*_merged_before(base), artifact.sha256],
        "base": {**recorded, "fingerprint": dict(fingerprint), "config_sha256": files.sha256_file(base / CONFIG)},
        "methods": [describe(m) for m in artifact.methods if m not in staying],
        "staying": [describe(m) for m in staying],
        "task": None if staying else own.task,
        "counts": own.counts,
        "versions": versions(),
    }


def refuse_second_merge(artifact: Artifact, base: Path) -> None:
    """Refuse to merge a delta onto a model that holds it already.

    Raises:
        MethodError: It does.
    """
    if artifact.sha256 in _merged_before(base):
        raise MethodError("this delta is already merged into that model", where=str(base), hint="Merge onto its base.")


def copy_companions(base: Path, out: Path) -> None:
    """Copy the tokenizer's and the generation's files.

    Raises:
        BaseModelError: One cannot be read.
    """
    found = {p for pattern in COMPANIONS for p in base.glob(pattern) if p.is_file()}
    for path in sorted(found):
        copy_file(path, out)


def write_template(artifact: Artifact, out: Path) -> None:
    """Write the template by which the delta learned to write chats, where it was not the tokenizer's own."""
    if template := (artifact.manifest.task or {}).get("chat_template"):
        files.write_text(out / CHAT_TEMPLATE, template)


def copy_file(path: Path, out: Path) -> None:
    """Copy a file into the folder ``out``.

    Raises:
        BaseModelError: It cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise BaseModelError(f"cannot be read: {(error.strerror or '').lower()}", where=str(path)) from None
    try:
        size = os.fstat(descriptor).st_size
        with files.new_file(out / path.name, size) as file:
            file.copy(descriptor, 0, size)
    finally:
        os.close(descriptor)


def _merged_before(base: Path) -> list[str]:
    path = base / PROVENANCE
    if not path.exists():
        return []
    content = files.read_json(path.resolve())
    merged = content.get("merged_from") if isinstance(content, dict) else None
    return [str(sha256) for sha256 in merged] if isinstance(merged, list) else []
