"""The folder of a base model: its config and its safetensors files, in one shard or many."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from peftcli.artifact.tensor_file import TensorEntry, TensorFile
from peftcli.base.config_file import CONFIG, known_config, read_object
from peftcli.base.source import check_weights
from peftcli.errors import BaseModelError
from peftcli.manifest import JSON_LIMIT

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the base model and the file it lies in."""

    file: TensorFile
    entry: TensorEntry


class BaseFolder:
    """An open base model; ``tensors`` maps its names on disk to where they lie."""

    def __init__(self, path: Path) -> None:
        """Open every shard and check the headers.

        Raises:
            BaseModelError: Files are missing, damaged, or named outside the folder.
        """
        self.path = path
        self._open = ExitStack()
        try:
            self.tensors = self._tensors()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every file."""
        self._open.close()

    def config(self) -> dict[str, Any]:
        """Return config.json.

        Raises:
            BaseModelError: It is missing, is not strict JSON, or its family is not known.
        """
        return known_config(self.path / CONFIG)

    def _tensors(self) -> dict[str, StoredTensor]:
        found: dict[str, StoredTensor] = {}
        for path in check_weights(self.path):
            found |= self._shard(path.name)
        if not (self.path / SINGLE).is_file():
            _check_index(self.path / INDEX, found)
        return found

    def _shard(self, name: str) -> dict[str, StoredTensor]:
        file = TensorFile(self.path / name, BaseModelError)
        self._open.callback(file.close)
        return {n: StoredTensor(file, e) for n, e in file.entries.items()}


def _check_index(index: Path, found: Mapping[str, StoredTensor]) -> None:
    places = read_object(index, JSON_LIMIT)["weight_map"]
    astray = sorted(
        n for n in places.keys() | found.keys() if n not in found or places.get(n) != found[n].file.path.name
    )
    if astray:
        raise BaseModelError(
            f"{len(astray)} tensors do not lie where it says (for instance {', '.join(astray[:5])})", where=str(index)
        )
