"""From tensors under another tool's names to places in the base model; what has no place is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from peftcli.artifact.exports import INNER, OUTER
from peftcli.artifact.peft_config import check_targets, tensor_names
from peftcli.artifact.stored_delta import StoredDelta
from peftcli.base.anatomy import Anatomy
from peftcli.base.checkpoint_names import map_names
from peftcli.delta.peft_form import PeftForm
from peftcli.delta.registry import all_methods
from peftcli.errors import ArtifactError

PROMPT = "prompt_embeddings"
OF_MODULE = re.compile(r"(?:(?P<module>.+)\.)?(?P<name>lora_\w+(?:\.weight)?|ia3_l|prompt_embeddings)")
SHOWN = 3


def peft_form(stored: StoredDelta, anatomy: Anatomy) -> PeftForm:
    """Return a stored delta with every tensor at its place.

    Args:
        stored: With a config.
        anatomy: Of the base model, for the delta's task.

    Raises:
        ArtifactError: A tensor has no place, or the config asks for others.
    """
    assert stored.config is not None
    allowed = tensor_names(stored.config)
    modules: dict[str, dict[str, torch.Tensor]] = {}
    rest: dict[str, torch.Tensor] = {}
    for name, tensor in stored.tensors.items():
        inner = name.removeprefix(INNER) if name.startswith(INNER) else name.removeprefix(OUTER)
        match = OF_MODULE.fullmatch(inner)
        if match is None:
            rest[inner] = tensor
        elif match["name"] not in allowed or (match["module"] is None) != (name == PROMPT):
            what = f"{name} is no tensor of a {stored.config['peft_type']}"
            raise ArtifactError(what, where=stored.where, hint=f"It would have {', '.join(sorted(allowed))}.")
        elif match["module"]:
            modules.setdefault(match["module"], {})[match["name"].removesuffix(".weight")] = tensor
    paths = _module_paths(modules, anatomy, stored.where)
    form = PeftForm(
        where=stored.where,
        config=stored.config,
        modules={path: modules[name] for path, name in paths.items()},
        names=paths,
        prompt=stored.tensors.get(PROMPT),
        head=_head(rest, anatomy, stored.where),
    )
    if "target_modules" in stored.config:
        check_targets(stored.config, paths.values(), _every(form, anatomy), stored.where)
    return form


def choose(form: PeftForm, anatomy: Anatomy) -> Any:  # noqa: ANN401  # a Method; its class is the registry's
    """Return the method that computes what ``form`` does.

    Raises:
        ArtifactError: None does.
    """
    found = [m for kind in all_methods().values() if (m := kind.from_peft(form, anatomy)) is not None]
    assert len(found) == 1, f"{len(found)} methods read {form.kind}"
    return found[0]


def _module_paths(modules: Mapping[str, Any], anatomy: Anatomy, where: str) -> dict[str, str]:
    """Return the delta's name of each module by its path in the backbone."""
    places = map_names([f"{name}.weight" for name in modules], anatomy)
    lost = sorted(name.removesuffix(".weight") for name, path in places.items() if path is None)
    if lost:
        raise _no_place(lost, "modules", anatomy, where)
    paths = {path.removesuffix(".weight"): n.removesuffix(".weight") for n, path in places.items() if path}
    if len(paths) < len(modules):
        raise ArtifactError("two names of it mean one module of the base model", where=where)
    return paths


def _head(rest: Mapping[str, torch.Tensor], anatomy: Anatomy, where: str) -> dict[str, torch.Tensor]:
    places = map_names(rest, anatomy)
    lost = sorted(name for name, path in places.items() if path is None)
    if lost:
        raise _no_place(lost, "tensors", anatomy, where)
    return {anatomy.address(path): rest[name] for name, path in places.items() if path}


def _no_place(names: list[str], what: str, anatomy: Anatomy, where: str) -> ArtifactError:
    task = f" for {anatomy.task}" if anatomy.task else ""
    return ArtifactError(
        f"{len(names)} {what} have no place in this {anatomy.family}{task} (for instance {', '.join(names[:SHOWN])})",
        where=where,
        hint="The delta belongs to another base model or task, or holds what is not known here.",
    )


def _every(form: PeftForm, anatomy: Anatomy) -> list[str]:
    """Return all projections, called as the delta would call them: with the backbone's prefix that it uses."""
    start = next((n.removesuffix(p) for p, n in form.names.items() if n.endswith(p)), "")
    known = {s.path for s in anatomy.sites(anatomy.projections)}
    return [form.names.get(path, start + path) for path in sorted(known)]
