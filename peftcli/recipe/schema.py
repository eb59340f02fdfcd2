"""The JSON Schema of a recipe: what editors complete and check while it is written."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from peftcli.recipe import budget
from peftcli.recipe.recipe import Recipe
from peftcli.recipe.settings import Settings

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema(methods: Mapping[str, type[Settings]]) -> dict[str, Any]:
    """Return the schema (draft 2020-12) of every recipe that names one of ``methods``."""
    whole = Recipe.model_json_schema()
    definitions: dict[str, Any] = whole.setdefault("$defs", {})
    for name, model in sorted(methods.items()):
        settings = _described(model.model_json_schema(), model)
        definitions |= settings.pop("$defs", {})
        definitions[f"method {name}"] = _named(_with_budget(settings, getattr(model, "size_setting", None)), name)
    definitions["method"] = {
        "oneOf": [{"$ref": f"#/$defs/method {name}"} for name in sorted(methods)],
        "type": "object",
        "properties": {"name": {"enum": sorted(methods)}},
        "required": ["name"],
    }
    definitions.pop(Settings.__name__, None)  # what the field's own type would have allowed
    whole["properties"]["method"] = {
        "description": whole["properties"]["method"]["description"],
        "oneOf": [
            {"$ref": "#/$defs/method"},
            {"type": "array", "items": {"$ref": "#/$defs/method"}, "minItems": 1},
        ],
    }
    return {"$schema": DIALECT, **whole, "title": "peftcli recipe"}


def _described(settings: dict[str, Any], model: type[Settings]) -> dict[str, Any]:
    return {**settings, "description": inspect.getdoc(model) or ""}


def _with_budget(settings: dict[str, Any], size: str | None) -> dict[str, Any]:
    """Return the schema with the key that stands in place of the size setting; null is as good as left out."""
    if size is None:
        return settings
    kinds = [{"type": "string", "pattern": budget.FORM}, {"type": "integer", "minimum": 1}, {"type": "null"}]
    key = {"anyOf": kinds, "default": None, "description": budget.describe(size)}
    own = {k: v for k, v in settings["properties"][size].items() if k in ("default", "description", "title")}
    value = {k: v for k, v in settings["properties"][size].items() if k not in own}
    properties = {**settings["properties"], size: {"anyOf": [value, {"type": "null"}], **own}, budget.KEY: key}
    given = {k: {"not": {"type": "null"}} for k in (size, budget.KEY)}
    return {**settings, "properties": properties, "not": {"properties": given, "required": list(given)}}


def _named(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the schema of a method's settings with the name that chooses it, which is no setting."""
    return {
        **settings,
        "title": name,
        "properties": {
            "name": {"const": name, "description": settings["description"].split("\n")[0]},
            **settings.get("properties", {}),
        },
        "required": ["name", *settings.get("required", [])],
    }
