"""A delta that another tool stored, in Hugging Face peft's words: what a method reads its settings and numbers from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peftcli.errors import ArtifactError, RecipeError

if TYPE_CHECKING:
    from torch import Tensor

    from peftcli.base.anatomy import Anatomy
    from peftcli.base.sites import Site
    from peftcli.delta.targets import Layers


@dataclass(frozen=True, kw_only=True)
class PeftForm:
    """A stored delta, its tensors sorted by where they belong in the base model.

    Attributes:
        where: The folder or file it came from.
        config: adapter_config.json, of which every key is known.
        modules: By the path of a module in the backbone: its tensors by peft's names, such as lora_A.
        names: By that path, what the delta itself calls the module.
        prompt: prompt_embeddings, where there are some.
        head: By address, tensors of the head.
    """

    where: str
    config: Mapping[str, Any]
    modules: Mapping[str, Mapping[str, Tensor]]
    names: Mapping[str, str]
    prompt: Tensor | None
    head: Mapping[str, Tensor]

    @property
    def kind(self) -> str:
        """What peft calls the method."""
        return str(self.config["peft_type"])

    def refuse(self, what: str, hint: str | None = None) -> ArtifactError:
        """Return the error that says why the delta cannot be taken over."""
        return ArtifactError(what, where=self.where, hint=hint)

    def setting(self, patterns: str, default: str, path: str) -> Any:  # noqa: ANN401  # a number, checked by its reader
        """Return a setting of one module: the first of ``patterns`` that its name ends in, or the ``default``.

        Raises:
            ArtifactError: A pattern is no regular expression.
        """
        for pattern, value in (self.config.get(patterns) or {}).items():
            try:
                found = re.match(rf"(.*\.)?({pattern})$", self.names[path])
            except re.error as error:
                raise self.refuse(f"{patterns} has {pattern!r}, which is no regular expression: {error}") from None
            if found:
                return value
        return self.config[default]

    def sites(self, anatomy: Anatomy) -> dict[str, list[Site]]:
        """Return the projections that each adapted module is: several where it is fused.

        Raises:
            ArtifactError: A module is none.
        """
        known: dict[str, list[Site]] = {}
        for site in anatomy.sites(anatomy.projections):
            known.setdefault(site.path, []).append(site)
        for path in self.modules:
            if path not in known:
                what = f"it moves {self.names[path]}, which is no projection of an attention or an FFN"
                raise self.refuse(what, "peftcli's methods have no place for it; load the delta with peft.")
        return {path: known[path] for path in self.modules}


def names_and_layers(form: PeftForm, found: Iterable[Site], anatomy: Anatomy) -> tuple[tuple[str, ...], Layers]:
    """Return the names and the layers whose sites are exactly those ``found``.

    Raises:
        ArtifactError: There are none, or other names are adapted in one layer than in another.
    """
    found = list(found)
    if not found:
        raise form.refuse("it moves nothing")
    chosen = {(s.path, s.name) for s in found}
    names = tuple(n for n in anatomy.projections if any(n == name for _, name in chosen))
    numbers = tuple(sorted({s.layer for s in found if s.layer is not None}))
    layers: Layers
    for layers in ("all", numbers):
        try:
            sites = {(s.path, s.name): s for s in anatomy.sites(names, layers)}
        except RecipeError:  # one of the stacks has no such layer
            continue
        if sites.keys() == chosen:
            return names, layers
    whole = {(s.path, s.name): s for s in anatomy.sites(names)}
    absent = next(str(s) for place, s in whole.items() if place not in chosen)
    raise form.refuse(
        f"it moves {', '.join(names)}, but not in the same layers: nothing moves {absent}",
        "Tensors may be missing; a delta that is meant so has no name here.",
    )
