"""What a merge takes from its base model, kept beside the result: so the base comes back, every file bit for bit.

A tensor that the merged model holds as the base stored it is not kept twice: only where it lies is noted. The headers
of the base's files are kept as text, so that a restored file has every byte of the original.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from peftcli import files
from peftcli.artifact.base_folder import INDEX, BaseFolder
from peftcli.artifact.merged_folder import CHAT_TEMPLATE, PROVENANCE, copy_file
from peftcli.artifact.row_blocks import Output
from peftcli.artifact.tensor_file import TensorEntry, TensorFile, TensorSpec, arranged, new_tensor_file
from peftcli.base.config_file import CONFIG
from peftcli.errors import ArtifactError
from peftcli.recipe.settings import Settings

ORIGINALS = "originals"  # inside a merged folder
TENSORS = "tensors.safetensors"
LAYOUT = "layout.json"
SMALL = (CONFIG, INDEX, PROVENANCE, CHAT_TEMPLATE)


class FileLayout(Settings):
    """One safetensors file of the base model."""

    header: str
    """Its JSON, as it was."""
    tensors: list[tuple[str, str | None]]
    """In the order of their bytes: what the tensor is called, and in the merged model; None: its value is kept here."""


class Layout(Settings):
    """The content of layout.json, format 1."""

    format: Literal[1]
    files: dict[str, FileLayout]


def lost_bytes(base: BaseFolder, outputs: Iterable[Output]) -> int:
    """Return how many bytes of the base model a merge does not carry over as they are."""
    held = _held(outputs)
    return sum(e.bytes for file in _files(base) for e in file.entries.values() if (file.path.name, e.name) not in held)


def keep_originals(base: BaseFolder, outputs: Iterable[Output], folder: Path) -> None:
    """Write what a merge does not carry over, and where the rest lies, into the new folder ``folder``.

    Raises:
        ResourceError: It cannot be written.
    """
    held = _held(outputs)
    layout = Layout(format=1, files={file.path.name: _layout(file, held) for file in _files(base)})
    entries = {
        f"{file.path.name}/{name}": (file, file.entries[name])
        for file in _files(base)
        for name, merged in layout.files[file.path.name].tensors
        if merged is None
    }

    def write(temporary: Path) -> None:
        specs = arranged([TensorSpec(n, e.dtype, e.shape) for n, (_, e) in entries.items()])
        with new_tensor_file(temporary / TENSORS, specs) as writer:
            for spec in specs:
                file, entry = entries[spec.name]
                writer.begin(spec)
                writer.copy(file, entry.start, entry.bytes)
        files.write_json(temporary / LAYOUT, layout.model_dump(mode="json"))
        for name in SMALL:
            if (base.path / name).is_file():
                copy_file(base.path / name, temporary)

    files.commit_folder(folder, write)


def restore(merged: Path, out: Path) -> None:
    """Write the base model's config and weights, as they were before the merge, into ``out``.

    Raises:
        ArtifactError: What was kept is damaged, or does not fit the merged model.
        BaseModelError: The merged model is damaged.
    """
    folder = merged / ORIGINALS
    files.check_folder(folder)
    layout = _read_layout(folder / LAYOUT)
    with BaseFolder(merged) as model, TensorFile(folder / TENSORS) as kept:
        for name, file in layout.files.items():
            places = [_place(model, kept, name, tensor) for tensor in file.tensors]
            _restore_file(out / name, file.header.encode(), places)
    for name in SMALL:
        if (folder / name).exists():
            copy_file(folder / name, out)


def _held(outputs: Iterable[Output]) -> dict[tuple[str, str], str]:
    """Return the merged name of every tensor that is copied, by its file and its name in the base model."""
    stored = [(o.stored, o.spec.name) for o in outputs if o.copied]
    return {(s.file.path.name, s.entry.name): name for s, name in stored if s is not None}


def _files(base: BaseFolder) -> list[TensorFile]:
    return list({s.file.path.name: s.file for s in base.tensors.values()}.values())


def _layout(file: TensorFile, held: Mapping[tuple[str, str], str]) -> FileLayout:
    entries = sorted(file.entries.values(), key=lambda e: (e.start, e.bytes))
    raw = bytearray(entries[0].start)
    file.read_into(memoryview(raw), 0)
    tensors = [(e.name, held.get((file.path.name, e.name))) for e in entries]
    return FileLayout(header=raw[8:].decode(), tensors=tensors)


def _read_layout(path: Path) -> Layout:
    try:
        layout = Layout.model_validate_json(json.dumps(files.read_json(path)))
    except ValidationError as error:
        raise ArtifactError(f"not a layout of format 1: {error.errors()[0]['msg']}", where=str(path)) from None
    for name in layout.files:
        if set(name) & set("/\\\0") or not name.endswith(".safetensors"):
            raise ArtifactError(f"names {name!r}, which leaves the folder", where=str(path))
    return layout


def _place(
    model: BaseFolder, kept: TensorFile, file: str, tensor: tuple[str, str | None]
) -> tuple[TensorFile, TensorEntry]:
    name, merged = tensor
    if merged is None and (entry := kept.entries.get(f"{file}/{name}")) is not None:
        return kept, entry
    if merged is not None and (stored := model.tensors.get(merged)) is not None:
        return stored.file, stored.entry
    raise ArtifactError(f"{name} of {file} is neither kept nor in the merged model", where=str(kept.path.parent))


def _restore_file(path: Path, header: bytes, places: list[tuple[TensorFile, TensorEntry]]) -> None:
    with files.new_file(path, 8 + len(header) + sum(e.bytes for _, e in places)) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for source, entry in places:
            file.copy(source.descriptor, entry.start, entry.bytes)
