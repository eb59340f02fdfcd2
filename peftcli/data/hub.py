"""Data sets of a hub: from the datasets library's cache, or over the network, as Arrow files on this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from peftcli.data.known import KNOWN, Known
from peftcli.errors import DataError
from peftcli.recipe.recipe import HUB_FORM

_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_hub_name(text: str) -> bool:
    """Return whether ``text`` can name a data set of a hub rather than a file."""
    name = re.fullmatch(HUB_FORM, text)
    return name is not None and ("/" in name["id"] or name["id"] in KNOWN)


def hub_files(source: str, split: str, revision: str | None) -> list[tuple[Path, str, str]]:
    """Return the Arrow files of one split of a data set, each with its name in complaints and in reports.

    Args:
        source: ``org/name``, ``org/name:config`` or a name of ``known.KNOWN``, each also with ``#split``.
        split: Which split, where ``source`` does not say.
        revision: Branch, tag or commit.

    Raises:
        DataError: There is no such data set, configuration or split, or it cannot be had.
    """
    name = re.fullmatch(HUB_FORM, source)
    assert name, f"{source} is no name of a data set"
    known = KNOWN.get(name["id"], Known(hub=name["id"])) if name["config"] is None else Known(hub=name["id"])
    config = name["config"] or known.config
    split = name["split"] or known.splits.get(split, split)
    shown = f"{known.hub}{f':{config}' if config else ''}#{split}"
    files = [Path(entry["filename"]) for entry in _loaded(known.hub, config, split, revision, source).cache_files]
    if not files:
        raise DataError("the datasets library keeps no file of this data set", where=shown)
    commit = next((part for part in files[0].parts if _COMMIT.fullmatch(part)), None)
    parts = [f", part {number}" if len(files) > 1 else "" for number in range(1, len(files) + 1)]
    label = shown + (f" @ {commit[:7]}" if commit else "")
    return [(file, shown + part, label + part) for file, part in zip(files, parts, strict=True)]


def _loaded(hub: str, config: str | None, split: str, revision: str | None, source: str) -> Any:  # noqa: ANN401
    import datasets
    from datasets import load_dataset

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        # A data set that is a program is refused by the library since its version 4.
        return load_dataset(hub, config, split=split, revision=revision)
    except (OSError, ValueError, RuntimeError, LookupError) as error:
        raise _explained(error, source, hub) from None
    finally:
        if shown:
            datasets.enable_progress_bars()


def _explained(error: Exception, source: str, hub: str) -> DataError:
    from datasets import config
    from huggingface_hub import constants

    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    if isinstance(error, OSError):  # the library finds nothing: neither here, nor where it may ask
        if constants.HF_HUB_OFFLINE:
            what = f"no such file, and no data set {hub} in {config.HF_DATASETS_CACHE}; HF_HUB_OFFLINE forbids to ask"
            return DataError(what, where=source, hint="Run it once without HF_HUB_OFFLINE, or name files instead.")
        hint = "Check the name and the network; `hf auth login` where access is granted by its owners."
        return DataError(f"no such file, and the hub gives no data set {hub}: {reason}", where=source, hint=hint)
    hint = "Write org/name:config#split; data.revision chooses a branch, tag or commit."
    return DataError(f"the data set {hub} cannot be used: {reason}", where=source, hint=hint)
