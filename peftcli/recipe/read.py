"""Reads a recipe: file, overrides, environment and paths, validation; and writes it again, every default filled in."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from peftcli.errors import RecipeError
from peftcli.recipe import override, scalars
from peftcli.recipe.document import COMMAND_LINE, MOST_BYTES, Document, Loc
from peftcli.recipe.problems import Complaint, complaints, in_order, is_optional, moved
from peftcli.recipe.recipe import VERSION, Recipe
from peftcli.recipe.rules import RULES
from peftcli.recipe.settings import IsPath, Settings
from peftcli.recipe.stack import write_stack

MethodReader = Callable[[Any], tuple[Settings, ...]]
MethodFinder = Callable[[Any], type[Settings] | None]

_VARIABLE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
_PYTHONS_NULL = "None"


def read_recipe(
    path: Path, overrides: Sequence[str], methods: MethodReader, find: MethodFinder = lambda _: None
) -> Recipe:
    """Return the recipe at ``path``, its name and its paths filled in.

    Args:
        path: A YAML file; paths in it are relative to its folder, those in overrides to the working directory.
        overrides: ``section.key=value``, applied from left to right.
        methods: Reads the section ``method`` (delta.registry.read_methods).
        find: Returns the settings of one mapping in it, if it names a method (delta.registry.settings_of).

    Raises:
        RecipeError: The file cannot be read, or something in it or in the overrides is wrong. Of the syntax the
            first mistake is named, of the content all of them.
    """
    document = Document.parse(_content(path), str(path))
    override.apply(document, overrides)
    _check_version(document)
    found = [*_expand(document, path.parent.absolute(), find), *_nothings(document)]
    explained = {complaint.loc for complaint in found}
    for rule in RULES:
        found += rule(document)
    if document.data.get("name") is None:
        document.data["name"] = _name(path)
    try:
        recipe = Recipe.model_validate_json(json.dumps(document.data), context={"methods": methods})
    except ValidationError as error:
        found += (c for c in complaints(error, document) if c.loc not in explained)
    if found:
        raise RecipeError(in_order(found, document))
    return recipe


def read_method(name: str, overrides: Sequence[str], methods: MethodReader) -> tuple[Settings, ...]:
    """Return the method called ``name`` with ``method.key=value`` overrides, without a recipe around it.

    Raises:
        RecipeError: With every mistake.
    """
    document = Document.parse(json.dumps({"method": {"name": name}}).encode(), "command line")
    override.apply(document, overrides)
    try:
        return methods(document.data["method"])
    except ValidationError as error:
        lines = moved(error, ("method",), Settings)
        whole = ValidationError.from_exception_data("method", lines)
        raise RecipeError(in_order(complaints(whole, document), document)) from None


def resolved(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as plain data with every default filled in; read again, it is the same recipe."""
    filled = recipe.model_dump(mode="json", exclude={"method"})
    return {key: write_stack(recipe.method) if key == "method" else filled[key] for key in Recipe.model_fields}


def to_yaml(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML that ``read_recipe`` reads as the same recipe."""
    return yaml.dump(resolved(recipe), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 30)


class _Dumper(yaml.SafeDumper):
    """Writes no aliases, short lists in brackets, and quotes what YAML 1.1 or 1.2 would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ANN401
        return True


def _write_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    try:
        plain = scalars.resolve(text, "") == text != _PYTHONS_NULL
    except RecipeError:
        plain = False
    style = None if plain and text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _write_mapping(dumper: _Dumper, mapping: dict[str, Any]) -> yaml.MappingNode:
    return dumper.represent_mapping("tag:yaml.org,2002:map", mapping, flow_style=not mapping)


def _write_list(dumper: _Dumper, items: list[Any]) -> yaml.SequenceNode:
    nested = any(isinstance(item, dict | list) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=not nested)


_Dumper.add_representer(str, _write_text)
_Dumper.add_representer(dict, _write_mapping)
_Dumper.add_representer(list, _write_list)


def _content(path: Path) -> bytes:
    """Return the bytes of a regular file; a pipe or a device could be waited for, or read, for ever."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise RecipeError(f"{path} is a directory, not a recipe", hint=_others(path))
        if not stat.S_ISREG(mode):
            raise RecipeError(f"{path} is not a regular file")
        with path.open("rb") as file:
            return file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise RecipeError(f"there is no recipe {path}", hint=_others(path.parent)) from None
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {os.strerror(error.errno or 0).lower()}") from None
    except ValueError:
        raise RecipeError(f"{str(path)!r} is not a path") from None


def _others(folder: Path) -> str:
    try:
        names = sorted(p.name for p in folder.iterdir() if p.suffix in (".yaml", ".yml"))
    except OSError:
        names = []
    listed = f"There: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}." if names else ""
    return listed or "`peft init` writes one."


def _check_version(document: Document) -> None:
    version = document.data.get("version", VERSION)
    if type(version) is int and version == VERSION:
        return
    where = document.where(document.place(("version",)))
    if type(version) is int and version > VERSION:
        raise RecipeError(
            f"version {version} of the recipe language needs a newer peftcli; this one reads version {VERSION}",
            where=where,
            hint="Upgrade with `pip install --upgrade peftcli`.",
        )
    raise RecipeError(f"version is {scalars.shown(version)}, but must be {VERSION}", where=where)


def _name(path: Path) -> str:
    """Return a run's name made of the file's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip("._-")[:100] or "recipe"


def _nothings(document: Document) -> Iterator[Complaint]:
    """Find Python's None where the recipe language says null, and text would be taken silently."""
    for loc, text in document.texts():
        if text == _PYTHONS_NULL and loc in document.plain and is_optional(loc):
            what = f"{'.'.join(map(str, loc))} is the text 'None'"
            yield Complaint(document.place(loc), loc, what, "Did you mean null?")


def _expand(document: Document, folder: Path, find: MethodFinder) -> Iterator[Complaint]:
    """Fill in ``${env:NAME}`` and ``~`` and make paths absolute."""
    for loc, text in list(document.texts()):
        mark = _path_mark(document, loc, find)
        try:
            value = _environment(document, loc, text, is_path=mark is not None)
            if isinstance(value, str) and mark:
                given_here = document.place(loc) == COMMAND_LINE  # where a path means what the shell completes
                value = _absolute(loc, value, mark, Path.cwd() if given_here else folder)
        except RecipeError as error:
            yield Complaint(document.place(loc), loc, error.problems[0].what, error.problems[0].hint)
        else:
            document.get(loc[:-1])[loc[-1]] = value


def _environment(document: Document, loc: Loc, text: str, *, is_path: bool) -> scalars.Scalar:
    if "${env:" not in text:
        return text
    key, whole = ".".join(map(str, loc)), _VARIABLE.fullmatch(text)
    if not whole and not is_path:
        hint = "A variable is filled in where it is the whole value, and inside paths."
        raise RecipeError(f"{key} has ${{env:...}} inside other text", hint=hint)
    missing = [name for name in _VARIABLE.findall(text) if name not in os.environ]
    if missing:
        hint = f"Write `export {missing[0]}=...` before the command."
        raise RecipeError(f"{key} needs the environment variable {missing[0]}, which is not set", hint=hint)
    filled = _VARIABLE.sub(lambda match: os.environ[match[1]], text)
    if "${env:" in filled:
        raise RecipeError(f"{key} has an ${{env:...}} that is not ${{env:NAME}}")
    scalars.check_text(filled, "")
    return scalars.resolve(filled, "") if whole and loc in document.plain else filled


def _path_mark(document: Document, loc: Loc, find: MethodFinder) -> IsPath | None:
    """Return what marks the field of the text at ``loc``, or of the list it stands in, as one that holds paths."""
    in_method = loc[0] == "method"
    depth = 2 if in_method and isinstance(document.get(loc[:1]), list) else 1
    section = Recipe.model_fields.get(str(loc[0]))
    model = find(document.get(loc[:depth])) if in_method else section and section.annotation
    fields: dict[str, FieldInfo] = getattr(model, "model_fields", {})
    field = fields.get(str(loc[depth])) if depth < len(loc) <= depth + 2 else None
    return next((mark for mark in field.metadata if isinstance(mark, IsPath)), None) if field else None


def _absolute(loc: Loc, text: str, mark: IsPath, folder: Path) -> str:
    """Return a path that means the same from every folder; hub ids, demos, shares and metric names stay."""
    if any(character in text for character in "\n\t"):
        raise RecipeError(f"{'.'.join(map(str, loc))} holds a line end or a tab")
    written = text == "." or text.startswith(("./", "../", "~", "/"))
    if text.startswith("~"):
        try:
            text = str(Path(text).expanduser())
        except RuntimeError:
            raise RecipeError(f"{'.'.join(map(str, loc))}: there is no home directory {text.split('/')[0]}") from None
    if text.startswith("demo:") or "://" in text or not text:
        return text
    if not (written or mark.meant is None or mark.meant(text, folder)):
        return text
    scalars.check_text(str(folder), "")
    return str(folder / text)
