"""What a recipe says about files -> the files: paths, globs, lists and the demo sets."""

from __future__ import annotations

import re
import stat
from collections.abc import Sequence
from pathlib import Path

from peftcli.data.complaints import did_you_mean, listed, raise_all
from peftcli.errors import DataError, Problem

DEMO = "demo:"
_DEMO_FOLDER = Path(__file__).parent / "demo"
_GLOB = re.compile(r"[*?\[]")


def find_files(sources: str | Sequence[str]) -> list[Path]:
    """Return the files that ``sources`` names: in the order of a list, the matches of a glob sorted.

    Raises:
        DataError: A source names no regular file, or two name the same one.
    """
    files: list[Path] = []
    problems: list[Problem] = []
    for source in [sources] if isinstance(sources, str) else sources:
        try:
            found = _find(source)
        except DataError as error:
            problems.extend(error.problems)
            continue
        problems += [Problem(what="the file is named twice", where=str(file)) for file in found if file in files]
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


def _find(source: str) -> list[Path]:
    try:
        path = Path(demo_file(source, "train")).expanduser()
    except RuntimeError:
        raise DataError("no such home directory", where=source) from None
    if _GLOB.search(source) and not path.exists():
        return _matches(path)
    _check(path)
    return [path]


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
    if not path.suffix:
        return "Data is read from files: download a data set of a hub first, and name its files."
    return f"The working directory is {Path.cwd()}."
