"""Opens the trained deltas that methods are built on, before a run attaches anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftcli.artifact.artifact import Artifact, check_base, open_artifact
from peftcli.delta.method import Method, TrainedDelta


def open_sources(methods: tuple[Method, ...]) -> dict[str, Artifact]:
    """Return the trained deltas that ``methods`` are built on, every byte checked, by the folder that was named.

    Raises:
        ArtifactError: One is damaged or is not there.
    """
    return {folder: open_artifact(Path(folder)) for method in methods for folder in method.sources}


def build(
    methods: tuple[Method, ...], sources: Mapping[str, Artifact], fingerprint: Mapping[str, Any], base: str
) -> tuple[Method, ...]:
    """Return ``methods`` with the trained deltas that they are built on.

    Args:
        methods: As the recipe says them.
        sources: What ``open_sources`` found.
        fingerprint: Of the base model, on which those deltas must have been trained.
        base: What that base model is called.

    Raises:
        ArtifactError: One of the deltas belongs to another base model, or is of no use to its method.
        MethodError: A method needs more of them.
    """
    for artifact in sources.values():
        check_base(artifact, fingerprint, base)
    return tuple(m.built_on([_trained(folder, sources[folder]) for folder in m.sources]) for m in methods)


def _trained(folder: str, artifact: Artifact) -> TrainedDelta:
    return TrainedDelta(folder=folder, identity=artifact.sha256, methods=artifact.methods, tensors=artifact.tensors())
