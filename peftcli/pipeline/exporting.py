"""``peft export``: a delta in a folder of its own, for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from peftcli import files
from peftcli.errors import MethodError

if TYPE_CHECKING:
    from peftcli.artifact.artifact import Artifact
    from peftcli.artifact.exports import Export

Form = Literal["peft", "portable"]


def export(target: Path, out: Path, form: Form, *, overwrite: bool = False) -> dict[str, Any]:
    """Write a run's delta to ``out`` as Hugging Face peft or a server reads it, with a model card.

    Raises:
        MethodError: It has no such form.
        ArtifactError: It is damaged.
        ResourceError: ``out`` exists or cannot be written.
    """
    from peftcli.artifact.artifact import open_artifact
    from peftcli.artifact.model_card import CARD, model_card

    files.check_new(out, overwrite=overwrite)
    artifact = open_artifact(target)
    _check_form(artifact)
    found = _found(artifact, form)
    report = artifact.folder.parent / "report.json"
    said = files.read_json(report) if report.is_file() else None
    card = model_card(artifact, found, out.name, said if isinstance(said, dict) else None)

    def write(folder: Path) -> None:
        found.write(folder)
        files.write_text(folder / CARD, card)

    files.commit_folder(out, write, manifest=False, overwrite=overwrite)
    return {
        "out": str(out),
        "form": form,
        "kind": found.kind,
        "peft_type": found.config["peft_type"],
        "tensors": len(found.tensors),
        "rank": found.config.get("r"),
        "base": found.config.get("base_model_name_or_path") or artifact.manifest.base.name,
        "bytes": sum(path.stat().st_size for path in out.iterdir()),
    }


def _check_form(artifact: Artifact) -> None:
    own = artifact.manifest
    if own.hf_peft == "none":
        mergeable = all(m.mergeable for m in artifact.methods) and not artifact.pooled
        raise MethodError(
            f"the delta cannot be exported: {own.hf_peft_reason}",
            where=str(artifact.folder),
            hint="Use 'peft merge', which writes a plain model." if mergeable else "Keep it with peftcli: 'peft eval'.",
        )


def _found(artifact: Artifact, form: Form) -> Export:
    from peftcli.artifact.exports import stored
    from peftcli.artifact.portable import portable

    return portable(artifact) if form == "portable" else stored(artifact.folder, artifact.manifest.hf_peft)
