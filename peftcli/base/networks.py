"""The anatomy that a base model has under a class of transformers: some classes read text, others images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peftcli.base.anatomy import NETWORKS, Anatomy
from peftcli.errors import BaseModelError

IMAGES = "AutoModelForImageClassification"
"""The class of networks that read images; every other one for a task reads text."""


def anatomy_for(config: Mapping[str, Any], network: str, labels: int | None = None) -> Anatomy:
    """Return the anatomy of a base model that is opened under a class of transformers.

    Args:
        config: What config.json holds.
        network: Name of the Auto class that a task needs.
        labels: For a new head, how many labels it tells apart.

    Raises:
        BaseModelError: The family is not known, cannot do the task, or reads images where the task gives text.
        ResourceError: The config describes a network that no machine holds.
    """
    anatomy = Anatomy.of(config, task=NETWORKS[network], labels=labels)
    sees = anatomy.arch == "vision"
    if network == IMAGES and not sees:
        raise BaseModelError(
            f"{anatomy.family} reads text, and the task gives images",
            hint="Choose a vision encoder such as vit, deit or clip.",
        )
    if sees and network not in (IMAGES, "AutoModel"):
        raise BaseModelError(
            f"{anatomy.family} reads images, and the task gives text",
            hint="Choose an encoder such as bert, or write data.task=image-classification.",
        )
    return anatomy
