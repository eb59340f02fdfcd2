"""Unmerging: the base model comes back from what was stored of it, never by subtraction, which rounding would spoil."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftcli import files
from peftcli.artifact.base_folder import INDEX, SINGLE, BaseFolder
from peftcli.artifact.fingerprint import fingerprint
from peftcli.artifact.merged_folder import CHAT_TEMPLATE, PROVENANCE, copy_companions, copy_file
from peftcli.artifact.originals import ORIGINALS, restore
from peftcli.base.config_file import CONFIG
from peftcli.errors import ArtifactError


@dataclass(frozen=True, kw_only=True)
class MergedOnto:
    """What a merged folder says of the base model it was merged onto.

    Attributes:
        name: A hub id or a directory.
        commit: Of a hub id.
        fingerprint: Of the base model's tensors.
        config_sha256: Of its config.json.
    """

    name: str
    commit: str | None
    fingerprint: dict[str, Any]
    config_sha256: str

    @property
    def whole(self) -> bool:
        """Whether the fingerprint covers every byte of the tensors, and not a sample of them."""
        return "full" in self.fingerprint


@dataclass(frozen=True, kw_only=True)
class UnmergeSummary:
    """What an unmerge did.

    Attributes:
        base: What the base model is called.
        source: Where its tensors come from: the merged folder's originals, or the folder of the base model.
        tensors: How many there are.
        bytes: Of all of them.
        checked: How they were compared with what the merge noted.
    """

    out: str
    base: str
    source: str
    tensors: int
    bytes: int
    checked: str


def merged_onto(merged: Path) -> MergedOnto:
    """Return what ``merged`` says of its base model.

    Raises:
        ArtifactError: It is no merged model, or does not say.
    """
    path = merged / PROVENANCE
    if not path.exists():
        raise ArtifactError(
            f"holds no merged model: {PROVENANCE} is missing",
            where=str(merged),
            hint="Name a folder that 'peft merge' wrote.",
        )
    said = files.read_json(path)
    base = said.get("base") if isinstance(said, dict) else None
    base = base if isinstance(base, dict) else {}
    name, commit, marks = base.get("name"), base.get("commit"), base.get("fingerprint")
    config = base.get("config_sha256")
    marks = marks if isinstance(marks, dict) and {"tensors", "sample"} <= marks.keys() else None
    if isinstance(name, str) and isinstance(config, str) and isinstance(commit, str | None) and marks:
        return MergedOnto(name=name, commit=commit, fingerprint=marks, config_sha256=config)
    raise ArtifactError("does not say what it was merged onto", where=str(path))


def has_originals(merged: Path) -> bool:
    """Whether a merged folder keeps what it took from its base model."""
    return (merged / ORIGINALS).is_dir()


def unmerge(merged: Path, out: Path, base: Path | None, *, overwrite: bool = False) -> UnmergeSummary:
    """Write the base model of ``merged``, bit for bit, into ``out``, which appears complete or not at all.

    Args:
        merged: A folder that a merge wrote.
        out: The new folder.
        base: The folder of the base model; None: the merged folder's own originals are used.
        overwrite: Whether an existing folder is replaced.

    Raises:
        ArtifactError: The originals are damaged, or the base model is another one than was merged onto.
        BaseModelError: The base model's or the merged model's files are missing or damaged.
        ResourceError: ``out`` exists or cannot be written.
    """
    onto = merged_onto(merged)
    if base is not None:
        _prove(base, onto, str(base))
    elif not has_originals(merged):
        raise ArtifactError(f"keeps no originals: {ORIGINALS} is missing", where=str(merged))

    def write(temporary: Path) -> None:
        if base is None:
            copy_companions(merged, temporary)
            (temporary / CHAT_TEMPLATE).unlink(missing_ok=True)  # the base's own, if it had one, was kept
            restore(merged, temporary)
            _prove(temporary, onto, str(merged / ORIGINALS))
        else:
            _copy(base, temporary)

    files.check_new(out, overwrite=overwrite)
    files.check_room(out, _bytes(base or merged))
    files.commit_folder(out, write, manifest=False, overwrite=overwrite)
    with BaseFolder(out) as model:
        tensors, size = len(model.tensors), sum(s.entry.bytes for s in model.tensors.values())
    return UnmergeSummary(
        out=str(out),
        base=onto.name,
        source=str(base or merged / ORIGINALS),
        tensors=tensors,
        bytes=size,
        checked="every byte" if onto.whole else "names, shapes and samples",
    )


def _prove(folder: Path, onto: MergedOnto, label: str) -> None:
    """Refuse a model that is not the one that was merged onto."""
    found = fingerprint(folder, strict=onto.whole)
    if any(found.get(key) != mark for key, mark in onto.fingerprint.items()):
        what = f"this is not {onto.name} as it was merged onto: its tensors are others"
    elif files.sha256_file(folder / CONFIG) != onto.config_sha256:
        what = f"this is not {onto.name} as it was merged onto: its {CONFIG} is another one"
    else:
        return
    raise ArtifactError(what, where=label, hint="Name the base model as it was, with --base.")


def _copy(base: Path, out: Path) -> None:
    with BaseFolder(base) as model:
        weights = sorted({s.file.path for s in model.tensors.values()})
    index = [] if (base / SINGLE).is_file() else [base / INDEX]
    own = [p for p in (base / PROVENANCE,) if p.is_file()]  # a base model may have been merged itself
    for path in (base / CONFIG, *index, *own, *weights):
        copy_file(path, out)
    copy_companions(base, out)


def _bytes(folder: Path) -> int:
    with BaseFolder(folder) as model:
        return sum(s.entry.bytes for s in model.tensors.values())
