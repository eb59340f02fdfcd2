"""Reading a base model's config.json: strictly, and only for families that need no code of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peftcli.base.architectures import find
from peftcli.errors import BaseModelError, Problem
from peftcli.manifest import no_constants, no_repeated_keys

CONFIG = "config.json"
_LIMIT = 10 * 2**20  # bytes


def known_config(path: Path) -> dict[str, Any]:
    """Return a config whose family is known and that asks for no code of its own.

    Raises:
        BaseModelError: It is missing, is not such a config, or is not strict JSON.
    """
    if not path.exists() and (path.parent / "adapter_config.json").exists():
        raise BaseModelError(
            "holds a delta, not a base model", where=str(path.parent), hint="Name the model the delta belongs to."
        )
    config = read_object(path, _LIMIT)
    if config.get("auto_map"):
        raise BaseModelError(
            "auto_map asks for code that comes with the model, and peftcli runs none",
            where=str(path),
            hint="If transformers knows the family itself, take auto_map out of a copy of config.json.",
        )
    try:
        find(config)
    except BaseModelError as error:
        raise BaseModelError(Problem(what=p.what, where=str(path), hint=p.hint) for p in error.problems) from None
    return config


def read_object(path: Path, limit: int) -> dict[str, Any]:
    """Return a JSON object; links are followed, for the hub's cache is made of them.

    Raises:
        BaseModelError: The file is missing, larger than ``limit`` bytes, or not a strict JSON object.
    """
    where = str(path)
    try:
        if path.stat().st_size > limit:
            raise BaseModelError(f"is larger than {limit} bytes", where=where)
        text = path.read_text(encoding="utf-8")
        content = json.loads(text, object_pairs_hook=no_repeated_keys, parse_constant=no_constants)
    except json.JSONDecodeError as error:
        raise BaseModelError(f"not JSON: {error.msg}", where=f"{where}:{error.lineno}:{error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise BaseModelError(f"not JSON: {error}", where=where) from None
    except OSError as error:
        what = (
            f"there is no {path.name}" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        )
        raise BaseModelError(what, where=where) from None
    if not isinstance(content, dict):
        raise BaseModelError("is not a JSON object", where=where)
    return content
