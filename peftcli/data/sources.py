"""What a recipe says about files -> the files: paths, globs, folders, lists, the demo sets and those of a hub."""

from __future__ import annotations

import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peftcli.data.complaints import did_you_mean, listed, raise_all
from peftcli.data.hub import hub_files, is_hub_name
from peftcli.data.image_folders import holds_images
from peftcli.data.saved import is_saved, saved_files
from peftcli.errors import DataError, Problem

DEMO = "demo:"
_DEMO_FOLDER = Path(__file__).parent / "demo"
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file with rows.

    Attributes:
        path: Where it lies.
        name: What it is called in complaints.
        label: What it is called in reports.
    """

    path: Path
    name: str
    label: str


def find_files(sources: str | Sequence[str], split: str = "train", revision: str | None = None) -> list[SourceFile]:
    """Return the files that ``sources`` names: in the order of a list, the matches of a glob sorted.

    Args:
        sources: A path, a glob, a folder that the datasets library saved, a folder or an archive with a folder of
            images for each class, ``demo:NAME``, the name of a data set of a hub (``org/name``, ``org/name:config``,
            each also with ``#split``), or a list of them.
        split: Which split, where a source has several and does not say itself.
        revision: Of the data sets of a hub.

    Raises:
        DataError: A source names no regular file, or two name the same one.
    """
    files: list[SourceFile] = []
    problems: list[Problem] = []
    for source in [sources] if isinstance(sources, str) else sources:
        try:
            found = _find(source, split, revision)
        except DataError as error:
            problems.extend(error.problems)
            continue
        known = {file.path for file in files}
        problems += [Problem(what="the file is named twice", where=file.label) for file in found if file.path in known]
        files.extend(found)
    raise_all(problems or ([] if files else [Problem(what="the list of data files is empty")]))
    return files


def demo_file(source: str, split: str) -> str:
    """Return the file of a split of ``demo:NAME``; any other source stays as it is.

    Raises:
        DataError: There is no such demo, or it has no such split.
    """
    if not source.startswith(DEMO):
        return source
    name = source.removeprefix(DEMO)
    demos = sorted(folder.name for folder in _DEMO_FOLDER.iterdir() if folder.is_dir())
    if name not in demos:
        hint = f"{did_you_mean(name, demos)}There is {listed(DEMO + demo for demo in demos)}."
        raise DataError(f"no demo data is called {name!r}", where=source, hint=hint)
    file = _DEMO_FOLDER / name / f"{split}.jsonl"
    if not file.is_file():
        splits = listed(sorted(file.stem for file in file.parent.glob("*.jsonl")))
        raise DataError(f"{source} has no {split} rows", where=source, hint=f"It has {splits}.")
    return str(file)


def _find(source: str, split: str, revision: str | None) -> list[SourceFile]:
    try:
        path = Path(demo_file(source, split)).expanduser()
    except RuntimeError:
        raise DataError("no such home directory", where=source) from None
    exists = _exists(path)
    if is_hub_name(source) and not exists:
        return [SourceFile(file, name, label) for file, name, label in hub_files(source, split, revision)]
    if _GLOB.search(source) and not exists:
        return [_plain(file) for file in _matches(path)]
    if exists and is_saved(path):
        return [_plain(file) for file in saved_files(path, split)]
    if not (exists and holds_images(path)):
        _check(path)
    return [_plain(path)]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _plain(path: Path) -> SourceFile:
    """Return a file called as short as it can be: from the working directory, where it lies inside."""
    absolute = path.absolute()
    inside = absolute.is_relative_to(Path.cwd())
    return SourceFile(path, str(absolute.relative_to(Path.cwd()) if inside else absolute), str(path))


def _matches(pattern: Path) -> list[Path]:
    root = Path(pattern.anchor)
    hidden = pattern.name.startswith(".")
    try:
        found = list(root.glob(str(pattern.relative_to(root))))
    except ValueError as error:
        raise DataError(f"not a pattern: {error}", where=str(pattern), hint="Write ** between slashes.") from None
    files = sorted(file for file in found if not file.is_dir() and (hidden or not file.name.startswith(".")))
    if not files:
        raise DataError("the pattern matches no file", where=str(pattern.absolute()))
    for file in files:
        _check(file)
    return files


def _check(path: Path) -> None:
    where = str(path.absolute())
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise DataError("no such file", where=where, hint=_nearby(path)) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"the file cannot be reached: {reason}", where=where) from None
    if stat.S_ISDIR(mode):
        raise DataError("a directory, not a file", where=where, hint=f"Write {path / '*.jsonl'} for its files.")
    if not stat.S_ISREG(mode):
        raise DataError("not a regular file", where=where, hint="Data is read from files, not from pipes or devices.")


def _nearby(path: Path) -> str:
    try:
        neighbours = [file.name for file in path.parent.iterdir()]
    except OSError:
        neighbours = []
    if suggestion := did_you_mean(path.name, neighbours):
        return suggestion.strip()
    return f"The working directory is {Path.cwd()}."
