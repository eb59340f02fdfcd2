"""What a setting may be, in words, from its JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peftcli.recipe.recipe import SHARE_FORM

_TYPES = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text", "null": "null"}
_PLURALS = {"whole number": "whole numbers", "number": "numbers", "text": "texts", "mapping": "mappings"}
_BOUNDS = {"minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "to {}", "exclusiveMaximum": "below {}"}
_FORMS = {SHARE_FORM: "share such as 6%"}


def allowed(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Return the values that ``schema`` accepts, such as ``whole number from 1`` or ``auto, start``.

    Args:
        schema: Of one setting.
        definitions: What its references mean.
    """
    if "$ref" in schema:
        return allowed(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(allowed(part, definitions) for part in schema["anyOf"]))
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    kind = schema.get("type", "")
    if kind == "array":
        items = allowed(schema["items"], definitions) if "items" in schema else "anything"
        many = next((word for word in _PLURALS if items.startswith(word)), "")
        return f"list of {_PLURALS.get(many, '')}{items.removeprefix(many)}"
    if kind == "object":
        inner = ", ".join(schema.get("properties", ()))
        return f"mapping of {inner}" if inner else "mapping"
    if kind == "string" and "pattern" in schema:
        return _FORMS.get(schema["pattern"], f"text of the form {schema['pattern']}")
    bounds = [words.format(f"{schema[key]:,}") for key, words in _BOUNDS.items() if key in schema]
    return " ".join([_TYPES.get(kind, kind), *bounds])
