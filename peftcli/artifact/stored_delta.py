"""Deltas that other tools stored: read whole, checked for soundness, and not yet understood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from peftcli.artifact.exports import CONFIG, TENSORS
from peftcli.artifact.manifest import DELTA_JSON
from peftcli.artifact.numbers import from_bytes
from peftcli.artifact.peft_config import check_config
from peftcli.artifact.tensor_file import TensorFile
from peftcli.errors import ArtifactError
from peftcli.manifest import read_json

PICKLED = "adapter_model.bin"
NESTED = "model_state_dict"  # under which some training scripts keep the tensors
CONSENT = "It is read with --allow-pickle, as torch reads a file that may hold nothing but tensors."


@dataclass(frozen=True, kw_only=True)
class StoredDelta:
    """Tensors by their names in the file, in float32.

    Attributes:
        config: adapter_config.json; None for a bare file of tensors.
    """

    where: str
    config: Mapping[str, Any] | None
    tensors: Mapping[str, torch.Tensor]


def read_stored(source: Path, *, allow_pickle: bool) -> StoredDelta:
    """Read a folder of Hugging Face peft, or one file of tensors.

    Args:
        source: The folder or the file.
        allow_pickle: Whether a file of torch's is opened.

    Raises:
        ArtifactError: It is missing or damaged, or holds numbers that are not finite.
    """
    if source.is_dir():
        if (source / DELTA_JSON).exists():
            raise ArtifactError(
                "is a delta of peftcli already", where=str(source), hint=f"Use it as it is: peft eval {source}"
            )
        config = check_config(read_json((source / CONFIG).resolve()), str(source / CONFIG))
        named = source / TENSORS
        path = named if named.exists() or not (source / PICKLED).exists() else source / PICKLED
    else:
        config, path = None, source
    if not path.is_file():
        raise ArtifactError("no such file", where=str(path), hint="Name a folder of peft's, or a file of tensors.")
    tensors = _safetensors(path) if path.suffix == ".safetensors" else _torch(path, allow_pickle)
    where = str(source)
    if not tensors:
        raise ArtifactError("holds no tensors", where=where)
    return StoredDelta(where=where, config=config, tensors={n: _number(t, n, where) for n, t in tensors.items()})


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    with TensorFile(path) as file:
        return {n: from_bytes(file.read(n), e.dtype).reshape(e.shape) for n, e in file.entries.items()}


def _torch(path: Path, allowed: bool) -> dict[str, torch.Tensor]:
    where = str(path)
    if not allowed:
        raise ArtifactError("is a pickle, which can hold more than tensors", where=where, hint=CONSENT)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001  # an unpickler of a damaged file can raise anything
        raise ArtifactError(
            f"cannot be read as tensors: {type(error).__name__}", where=where, hint="Get it as safetensors."
        ) from None
    if isinstance(content, dict) and set(content) == {NESTED}:
        content = content[NESTED]
    if not isinstance(content, dict) or not all(isinstance(n, str) for n in content):
        raise ArtifactError("holds no named tensors", where=where)
    other = next((n for n, t in content.items() if not isinstance(t, torch.Tensor)), None)
    if other is not None:
        raise ArtifactError(f"{other} is no tensor", where=where)
    return dict(content)


def _number(tensor: torch.Tensor, name: str, where: str) -> torch.Tensor:
    if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise ArtifactError(f"{name} holds {str(tensor.dtype).removeprefix('torch.')}, not numbers", where=where)
    if not bool(torch.isfinite(tensor).all()):
        raise ArtifactError(f"{name} holds NaN or an infinity", where=where)
    return tensor.detach().float().contiguous()
