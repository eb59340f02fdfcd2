"""Tokenised rows, kept between runs under a name that everything they depend on decides."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftcli import files
from peftcli.data.examples import Examples
from peftcli.data.packed import UnpackableError, packed, unpacked
from peftcli.errors import ArtifactError, PeftcliError

if TYPE_CHECKING:
    from peftcli.data.tables import Table
    from peftcli.data.tasks import Task

FEWEST_ROWS = 50_000
"""Of fewer rows, tokenising takes a few seconds, and keeping the outcome is not worth its place on the disk."""
_IDS, _ABOUT = "ids.safetensors", "about.json"
_LARGEST_JSON = 2**31  # bytes


def cache_folder() -> Path:
    """Return where tokenised rows are kept: ``$PEFTCLI_CACHE``, or ``peftcli`` in the user's cache folder."""
    if own := os.environ.get("PEFTCLI_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path("~/.cache").expanduser()) / "peftcli"


def kept_or_made(key: str, table: Table, make: Callable[[], Examples], note: Callable[[str], None]) -> Examples:
    """Return the examples that are kept under ``key``, or those that ``make`` gives, which are kept from then on.

    Args:
        key: Of encoding_key.
        table: The rows whose examples they are.
        make: Tokenises them.
        note: Told where something in the cache is damaged, or nothing can be kept there.
    """
    folder = cache_folder() / "examples" / key
    damaged = False
    if folder.exists():
        try:
            return _kept(folder, table)
        except (ArtifactError, OSError, ValueError, KeyError, TypeError, IndexError):
            damaged = True
            note(f"the cache of tokenised rows is damaged and made anew ({folder})")
    examples = make()
    try:
        _keep(folder, examples, table, overwrite=damaged)
    except UnpackableError:
        pass
    except (PeftcliError, OSError) as error:
        if not folder.exists():  # or another run has kept the same meanwhile
            note(f"tokenised rows are not kept: {error}")
    return examples


def encoding_key(task: Task, table: Table, reader: Any, limits: tuple[int, int | None]) -> str | None:  # noqa: ANN401
    """Return a digest of all that the examples of ``table`` depend on, or None where rows have no JSON form.

    It is made of the rows themselves, the task, the tokenizer, the ``limits`` (longest input, vocabulary), this
    package's code for data and the versions of what tokenises.
    """
    import tokenizers
    import transformers

    digest = hashlib.sha256()
    versions = [tokenizers.__version__, transformers.__version__]
    about = [type(task).__qualname__, task.manifest(), list(limits), versions, _code(), _identity(reader)]
    try:
        digest.update(json.dumps(about).encode())
        for row in table.rows:
            digest.update(json.dumps(row.values).encode())
    except (TypeError, ValueError):
        return None
    return digest.hexdigest()


def _code() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _identity(reader: Any) -> list[str]:  # noqa: ANN401  # a fast tokenizer
    settings = {name: str(value) for name, value in reader.init_kwargs.items()}
    template = str(getattr(reader, "chat_template", None))
    state = [str(reader.special_tokens_map), template, reader.padding_side, reader.truncation_side]
    backend = json.loads(reader.backend_tokenizer.to_str())
    backend |= {"truncation": None, "padding": None}  # what the last call left there, and every call sets anew
    return [json.dumps(backend, sort_keys=True), json.dumps(settings, sort_keys=True), *state]


def _keep(folder: Path, examples: Examples, table: Table, *, overwrite: bool) -> None:
    from safetensors.numpy import save

    tensors, about = packed(examples.items, table)

    def write(new: Path) -> None:
        files.write_bytes(new / _IDS, save(tensors))
        files.write_json(new / _ABOUT, {"examples": about, "counts": examples.counts})

    files.commit_folder(folder, write, overwrite=overwrite)


def _kept(folder: Path, table: Table) -> Examples:
    from safetensors.numpy import load_file

    files.check_folder(folder)
    about = json.loads(files.read_bytes(folder / _ABOUT, _LARGEST_JSON))
    return Examples(unpacked(load_file(folder / _IDS), about["examples"], table), about["counts"])
