"""An artifact: the delta on disk, in a folder that is complete or refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from peftcli import files
from peftcli.artifact.exports import Export
from peftcli.artifact.manifest import DELTA_JSON, FORMAT, DeltaManifest, read_delta_manifest, version, versions
from peftcli.artifact.tensor_file import TensorFile, TensorSpec, arranged, new_tensor_file
from peftcli.delta.method import Method
from peftcli.delta.registry import describe, read_methods
from peftcli.errors import ArtifactError, Problem
from peftcli.manifest import MANIFEST

if TYPE_CHECKING:
    import torch

    from peftcli.base.base_model import BaseModel

TENSORS = "delta.safetensors"
DELTA_FOLDER = "delta"  # inside a run folder
TASK = "task."  # addresses of what the task itself learned
EXPONENTS = {"F16": ("u2", 0x7C00), "BF16": ("u2", 0x7F80), "F32": ("u4", 0x7F800000), "F64": ("u8", 0x7FF << 52)}
CHUNK = 2**22


@dataclass(frozen=True, kw_only=True)
class ArtifactContents:
    """What a finished run saves.

    Attributes:
        base: What ``base_identity`` returns.
        tensors: ``Delta.state()`` of the packed delta, and ``Task.tensors()`` behind ``TASK``.
        task: ``Task.manifest()``.
        export: The delta in Hugging Face peft's form, or why there is none.
    """

    methods: Sequence[Method]
    base: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]
    task: Mapping[str, Any] | None
    counts: Mapping[str, Any]
    seed: int
    export: Export = field(default_factory=lambda: Export(kind="none", reason="it was not asked for"))


@dataclass(frozen=True)
class Artifact:
    """An artifact whose every byte was checked; its tensors are read when they are asked for.

    Attributes:
        folder: Where it lies.
        manifest: What it says of itself.
        methods: To attach before the tensors are loaded.
        sha256: Of its tensors: its identity.
    """

    folder: Path
    manifest: DeltaManifest
    methods: tuple[Method, ...]
    sha256: str

    @property
    def pooled(self) -> bool:
        """Whether its head reads another state than the base model's own class would."""
        return bool((self.manifest.task or {}).get("pooling", "base") != "base")

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors of the delta, by address, for ``Delta.load``."""
        return {name: tensor for name, tensor in self._all().items() if not name.startswith(TASK)}

    def task_tensors(self) -> dict[str, torch.Tensor]:
        """Return what the task learned, by name, for ``Task.with_tensors``."""
        return {name.removeprefix(TASK): t for name, t in self._all().items() if name.startswith(TASK)}

    def _all(self) -> dict[str, torch.Tensor]:
        from peftcli.artifact.numbers import from_bytes

        with TensorFile(self.folder / TENSORS) as file:
            return {n: from_bytes(file.read(n), e.dtype).reshape(e.shape) for n, e in file.entries.items()}


def base_identity(base: BaseModel, config: Mapping[str, Any], **known: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return what an artifact says of the base model it belongs to.

    Args:
        base: As the delta was trained on it.
        config: Its config.json.
        known: name, commit, fingerprint and dtype.
    """
    padding = getattr(base.network.config, "pad_token_id", None)
    changed = {} if padding is None or padding == config.get("pad_token_id") else {"pad_token_id": padding}
    return {
        **known,
        "family": base.anatomy.family,
        "config": dict(config),
        "network": type(base.network).__name__,
        "network_config": changed,
    }


def save(folder: Path, contents: ArtifactContents, *, overwrite: bool = False) -> None:
    """Write an artifact; the folder appears complete or not at all.

    Raises:
        ResourceError: ``folder`` exists, or something cannot be written.
    """
    from peftcli.artifact.numbers import dtype_name, to_bytes

    tensors = contents.tensors
    specs = arranged([TensorSpec(n, dtype_name(t.dtype), tuple(t.shape)) for n, t in tensors.items()])
    manifest = {
        "format": FORMAT,
        "peftcli": version("peftcli"),
        "methods": [describe(m) for m in contents.methods],
        "base": dict(contents.base),
        "task": contents.task,
        "counts": dict(contents.counts),
        "tensors": {s.name: {"shape": list(s.shape), "dtype": s.dtype} for s in specs},
        "hf_peft": contents.export.kind,
        "hf_peft_reason": contents.export.reason,
        "versions": versions(),
        "seed": contents.seed,
    }

    def write(temporary: Path) -> None:
        with new_tensor_file(temporary / TENSORS, specs) as writer:
            for spec in specs:
                writer.begin(spec)
                writer.write(to_bytes(tensors[spec.name]))
        contents.export.write(temporary)
        files.write_json(temporary / DELTA_JSON, manifest)

    files.commit_folder(folder, write, overwrite=overwrite)


def open_artifact(folder: Path) -> Artifact:
    """Check everything that can be checked without the base model, and return the artifact.

    Args:
        folder: The artifact, or the run folder it stands in.

    Raises:
        ArtifactError: There is none, it is damaged, or a newer peftcli wrote it.
    """
    folder = find_artifact(folder)
    files.check_folder(folder)
    listed = files.read_manifest(folder)
    for name in (DELTA_JSON, TENSORS):
        if name not in listed:
            raise ArtifactError(f"{name} does not stand in the manifest", where=str(folder))
    manifest = read_delta_manifest(folder / DELTA_JSON)
    methods = _methods(manifest, folder / DELTA_JSON)
    with TensorFile(folder / TENSORS) as file:
        _check_tensors(file, manifest)
    return Artifact(folder, manifest, methods, listed[TENSORS].sha256)


def find_artifact(folder: Path) -> Path:
    """Return the folder of the artifact: ``folder`` itself, or its ``delta``.

    Raises:
        ArtifactError: There is none.
    """
    inner = folder / DELTA_FOLDER
    found = inner if inner.is_dir() and not (folder / DELTA_JSON).exists() else folder
    if not found.is_dir():
        raise ArtifactError("no such folder", where=str(folder), hint="Name a run folder or its delta folder.")
    if not (found / DELTA_JSON).exists() and not (found / MANIFEST).exists():
        raise ArtifactError(f"holds no delta: {DELTA_JSON} is missing", where=str(folder), hint="Name a run folder.")
    return found


def check_base(artifact: Artifact, fingerprint: Mapping[str, Any], base: str, *, allowed: bool = False) -> None:
    """Refuse a base model that is not the one the delta was trained on.

    Args:
        artifact: The delta.
        fingerprint: Of the base model at hand.
        base: What that base model is called.
        allowed: Whether any base is accepted.

    Raises:
        ArtifactError: The fingerprints differ.
    """
    own = artifact.manifest.base
    shared = own.fingerprint.keys() & fingerprint.keys()
    if allowed or ({"tensors", "sample"} <= shared and all(own.fingerprint[k] == fingerprint[k] for k in shared)):
        return
    same_shapes = own.fingerprint.get("tensors") == fingerprint.get("tensors")
    what = "its tensors have other numbers" if same_shapes else "its tensors have other names or shapes"
    trained, given = _short(own.fingerprint), _short(fingerprint)
    raise ArtifactError(
        f"the delta was trained on {own.name} ({trained}), not on {base} ({given}): {what}",
        where=str(artifact.folder),
        hint=f"Use {own.name}{' at commit ' + own.commit if own.commit else ''}.",
    )


def _short(fingerprint: Mapping[str, Any]) -> str:
    return f"fingerprint {str(fingerprint.get('tensors'))[:8]}-{str(fingerprint.get('sample'))[:8]}"


def _methods(manifest: DeltaManifest, path: Path) -> tuple[Method, ...]:
    try:
        found = read_methods(manifest.methods)
    except ValidationError as error:
        problems = [f"methods.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)]
        raise ArtifactError(Problem(what=p, where=str(path)) for p in problems[:5]) from None
    methods = tuple(m for m in found if isinstance(m, Method))
    if len(methods) < len(found):
        raise ArtifactError("a method has a budget where that of a finished delta has a size", where=str(path))
    return methods


def _check_tensors(file: TensorFile, manifest: DeltaManifest) -> None:
    found = {n: (e.dtype, list(e.shape)) for n, e in file.entries.items()}
    said = {n: (s.dtype, s.shape) for n, s in manifest.tensors.items()}
    missing, extra = sorted(said.keys() - found.keys()), sorted(found.keys() - said.keys())
    wrong = sorted(n for n in said.keys() & found.keys() if said[n] != found[n])
    if missing or extra or wrong:
        raise ArtifactError(
            f"{len(missing)} tensors missing, {len(extra)} unknown, {len(wrong)} of another shape or dtype "
            f"(for instance {', '.join((missing + extra + wrong)[:5])})",
            where=str(file.path),
        )
    for name in sorted(found):
        if not _finite(file, name):
            raise ArtifactError(f"{name} holds NaN or an infinity", where=str(file.path))


def _finite(file: TensorFile, name: str) -> bool:
    import numpy as np

    entry = file.entries[name]
    if entry.dtype not in EXPONENTS:
        return True
    kind, exponent = EXPONENTS[entry.dtype]
    buffer = bytearray(min(CHUNK, entry.bytes))
    for done in range(0, entry.bytes, CHUNK):
        piece = memoryview(buffer)[: min(CHUNK, entry.bytes - done)]
        file.read_into(piece, entry.start + done)
        numbers = np.frombuffer(piece, dtype=f"<{kind}")
        if bool(((numbers & numbers.dtype.type(exponent)) == exponent).any()):
            return False
    return True
