"""``peft unmerge``: the base model of a merged one, bit for bit."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftcli.base.source import find_source
from peftcli.errors import BaseModelError
from peftcli.pipeline.progress import Progress

if TYPE_CHECKING:
    from peftcli.artifact.unmerging import MergedOnto


def unmerge(
    target: Path, out: Path, base: str | None, progress: Progress, *, overwrite: bool = False
) -> dict[str, Any]:
    """Write the base model that ``target`` was merged onto to ``out``.

    Args:
        target: A folder that ``peft merge`` wrote.
        out: The new folder.
        base: Where the base model lies; None: the originals in ``target`` are used, or the base as it was recorded.
        progress: Hears what is done.
        overwrite: Replace an existing folder.

    Raises:
        ArtifactError: ``target`` is no merged model, its originals are damaged, or its base is another one now.
        BaseModelError: The base model is not at hand and no originals were kept.
    """
    from peftcli.artifact import unmerging

    onto = unmerging.merged_onto(target)
    if base is not None:
        folder = find_source(base).folder
    elif unmerging.has_originals(target):
        folder = None
    else:
        folder = _recorded(onto)
    summary = unmerging.unmerge(target, out, folder, overwrite=overwrite)
    progress.note(f"restored {summary.tensors} tensors of {summary.base} from {summary.source}")
    return asdict(summary)


def _recorded(onto: MergedOnto) -> Path:
    try:
        return find_source(onto.name, onto.commit).folder
    except BaseModelError as error:
        first = error.problems[0]
        hint = "Name where the base model lies with --base; 'peft merge --keep-originals' would not have needed it."
        raise BaseModelError(first.what, where=first.where, hint=hint) from error
