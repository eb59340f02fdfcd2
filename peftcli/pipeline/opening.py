"""From what a run left behind back to an adapted model: a run, an artifact, or a merged folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftcli import files
from peftcli.artifact.artifact import DELTA_FOLDER, Artifact, check_base, open_artifact
from peftcli.base.source import find_source
from peftcli.data.tasks import Task, task_from_manifest
from peftcli.errors import ArtifactError
from peftcli.pipeline.adapting import Prepared, prepare
from peftcli.recipe.recipe import BaseSection

if TYPE_CHECKING:
    from peftcli.delta.delta import Delta

MERGED = "peftcli.json"  # what a merged folder says of itself


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A base model, and the delta that was trained for it but is not attached yet.

    Attributes:
        artifact: None for a merged folder, whose network is complete.
        recipe: The run's resolved recipe, where the target is a run.
    """

    prepared: Prepared
    artifact: Artifact | None
    recipe: Path | None

    def adapt(self) -> Delta | None:
        """Attach and load the delta."""
        from peftcli.delta.delta import attach

        if self.artifact is None:
            return None
        delta = attach(self.artifact.methods, self.prepared.base, seed=self.artifact.manifest.seed)
        delta.load(self.artifact.tensors())
        return delta


def open_target(target: Path) -> Opened:
    """Open a run folder, a delta folder, or a folder that ``peft merge`` wrote, with the delta that stays in it.

    Raises:
        ArtifactError: It is none of these, is damaged, or its base model is another one now.
    """
    if (target / MERGED).exists() and not (target / DELTA_FOLDER).is_dir():
        return _open_merged(target)
    artifact = open_artifact(target)
    recipe = artifact.folder.parent / "recipe.yaml"
    return Opened(prepared=prepare_for(artifact), artifact=artifact, recipe=recipe if recipe.exists() else None)


def prepare_for(artifact: Artifact) -> Prepared:
    """Load the base model that a delta was trained on, with a fresh head.

    What stays of a stack that was merged in part lies inside the merged model and moves with it.

    Raises:
        ArtifactError: It is another one now.
    """
    from peftcli.artifact.fingerprint import fingerprint

    base = artifact.manifest.base
    home = artifact.folder.parent
    name = str(home) if (home / MERGED).exists() else base.name
    section = BaseSection(name=name, revision=base.commit, dtype=dtype_setting(base.dtype), quantise=base.quantise)
    prepared = prepare(section, task_of(artifact), artifact.methods, seed=artifact.manifest.seed)
    check_base(artifact, fingerprint(prepared.source.folder), prepared.source.label)
    return prepared


def task_of(artifact: Artifact) -> Task:
    """Return the task that a delta was trained for.

    Raises:
        ArtifactError: The artifact names none.
    """
    if artifact.manifest.task is None:
        raise ArtifactError("the delta does not say what task it was trained for", where=str(artifact.folder))
    return task_from_manifest(artifact.manifest.task).with_tensors(artifact.task_tensors())


def dtype_setting(dtype: str) -> Any:  # noqa: ANN401  # one of BaseSection.dtype's words
    """Return how the recipe would ask for weights held in ``dtype``."""
    return dtype if dtype in ("float32", "bfloat16", "float16") else "auto"


def _open_merged(folder: Path) -> Opened:
    said = files.read_json(folder / MERGED)
    task = said.get("task") if isinstance(said, dict) else None
    if not isinstance(task, dict):
        raise ArtifactError("does not say what task it was trained for", where=str(folder / MERGED))
    source = find_source(str(folder), None)
    section = BaseSection(name=str(source.folder))
    prepared = prepare(section, task_from_manifest(task), (), seed=0)
    return Opened(prepared=prepared, artifact=None, recipe=None)
