"""The JSON Schema of a recipe: what editors complete and check while it is written."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

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
        definitions[f"method {name}"] = _named(settings, name)
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
