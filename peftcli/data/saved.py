"""Folders that ``save_to_disk`` of the datasets library wrote: Arrow files, and JSON that lists them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peftcli.data.complaints import did_you_mean, listed
from peftcli.errors import DataError

_STATE, _SPLITS = "state.json", "dataset_dict.json"


def is_saved(folder: Path) -> bool:
    """Return whether ``folder`` is one that ``save_to_disk`` wrote, with one split or with several."""
    return (folder / _STATE).is_file() or (folder / _SPLITS).is_file()


def saved_files(folder: Path, split: str) -> list[Path]:
    """Return the Arrow files of such a folder in their order; ``split`` chooses where it has several.

    Raises:
        DataError: It has no such split, or what lists its files is damaged or names a file elsewhere.
    """
    if not (folder / _STATE).is_file():
        splits = _content(folder / _SPLITS, "splits")
        if split not in splits:
            hint = f"{did_you_mean(split, splits)}It has {listed(splits)}."
            raise DataError(f"has no split called {split!r}", where=str(folder), hint=hint)
        folder /= split
    entries = _content(folder / _STATE, "_data_files")
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries]
    files = [folder / name for name in names if isinstance(name, str) and Path(name).name == name]
    if not files or len(files) != len(names) or not all(file.is_file() for file in files):
        what = "names a file that is not beside it" if names else "names no file"
        raise DataError(what, where=str(folder / _STATE), hint="Save the data set again with save_to_disk.")
    return files


def _content(path: Path, key: str) -> list[Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))[key]
        if not isinstance(content, list):
            raise TypeError(key)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise DataError(f"cannot be read as a saved data set: no list {key!r}", where=str(path)) from None
    return content
