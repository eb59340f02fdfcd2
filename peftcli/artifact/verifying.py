"""``peft verify``: everything that can be checked about an artifact, and of its base model if that is at hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peftcli import files
from peftcli.artifact import exports
from peftcli.artifact.artifact import TENSORS, Artifact, check_base, open_artifact
from peftcli.artifact.fingerprint import fingerprint
from peftcli.artifact.tensor_file import TensorFile
from peftcli.errors import ArtifactError
from peftcli.manifest import MANIFEST


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        name: What.
        ok: Whether it holds; False means it could not be checked, for what does not hold is raised.
        detail: What was found.
    """

    name: str
    ok: bool
    detail: str


def verify(folder: Path, base_folder: Path | None, strict: bool) -> list[Check]:
    """Check an artifact and return what was checked.

    Args:
        folder: The artifact, or its run folder.
        base_folder: The base model; None leaves it out.
        strict: Whether every byte of the base model is read.

    Raises:
        ArtifactError: Something is damaged or does not fit.
    """
    artifact = open_artifact(folder)  # checks the first four
    listed = files.read_manifest(artifact.folder)
    own = artifact.manifest
    return [
        Check("files", True, f"{len(listed)} files, {sum(e.bytes for e in listed.values())} bytes, SHA-256 right"),
        Check("description", True, f"format {own.format}, written by peftcli {own.peftcli}"),
        Check("methods", True, " + ".join(m.name for m in artifact.methods)),
        Check("tensors", True, f"{len(own.tensors)} as described, all numbers finite"),
        _fit(artifact),
        _hugging_face(artifact),
        _base(artifact, base_folder, strict),
        _unlisted(artifact.folder, listed.keys() | {MANIFEST}),
    ]


def _fit(artifact: Artifact) -> Check:
    """Check that the methods make exactly these tensors on the base's config; others than merging ones need weights."""
    name = "tensors of the methods"
    if not all(m.mergeable for m in artifact.methods):
        return Check(name, False, "checked when the base model is loaded")
    from peftcli.artifact.merge_plan import attached

    with TensorFile(artifact.folder / TENSORS) as file:
        delta = attached(artifact, artifact.manifest.base.config, file)
    return Check(name, True, f"{delta.size} numbers and a head of {delta.head_size}")


def _hugging_face(artifact: Artifact) -> Check:
    own = artifact.manifest
    if own.hf_peft == "none":
        return Check("Hugging Face peft form", False, own.hf_peft_reason or "there is none")
    listed = files.read_manifest(artifact.folder)
    lost = [n for n in (exports.CONFIG, exports.TENSORS) if n not in listed]
    if lost:
        raise ArtifactError(f"{' and '.join(lost)} do not stand in the manifest", where=str(artifact.folder))
    with TensorFile(artifact.folder / exports.TENSORS) as file:
        return Check("Hugging Face peft form", True, f"{own.hf_peft}, {len(file.entries)} tensors")


def _base(artifact: Artifact, base_folder: Path | None, strict: bool) -> Check:
    own = artifact.manifest.base
    if base_folder is None:
        return Check("base model", False, f"not given; it is {own.name}")
    found = fingerprint(base_folder, strict=strict)
    check_base(artifact, found, str(base_folder))
    if strict and "full" not in own.fingerprint:
        return Check("base model", True, f"{own.name}; no full hash was recorded, this one is {found['full']}")
    return Check("base model", True, f"{own.name}, {'every byte' if strict else 'names, shapes and samples'}")


def _unlisted(folder: Path, listed: set[str]) -> Check:
    extra = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    extra = [name for name in extra if name not in listed]
    return Check("other files", True, f"unchecked: {', '.join(extra[:5])}" if extra else "none")
