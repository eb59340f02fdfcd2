"""Scalars as YAML 1.2 reads them, and what no text in a recipe may hold."""

from __future__ import annotations

import json
import re
import unicodedata

from peftcli.errors import RecipeError

Scalar = str | int | float | bool | None

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"([-+]?)\.(inf|Inf|INF|nan|NaN|NAN)")
_OCTAL = re.compile(r"[-+]?0o?[0-9]+")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
_LONGEST_INTEGER = 40  # digits

_SECRET = re.compile(r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{20,}")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
# Text that looks like other text: bidirectional marks, zero-width characters, soft hyphen, tags.
_HIDDEN = re.compile(
    "[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def resolve(text: str, where: str) -> Scalar:
    """Return what an unquoted scalar means.

    Raises:
        RecipeError: It is a number that YAML 1.1 and YAML 1.2 read differently, or too large a one.
    """
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if text[0] not in "+-.0123456789":
        return text
    _refuse_two_readings(text, where)
    if _INT.fullmatch(text):
        if len(text) > _LONGEST_INTEGER:
            raise RecipeError(f"a number of {len(text)} characters is too large", where=where)
        return int(text, 16 if text.startswith("0x") else 10)
    if _FLOAT.fullmatch(text):
        return float(text)
    if match := _NOT_FINITE.fullmatch(text):
        return float(match[1] + match[2])
    return text


def is_number(text: str) -> bool:
    """Return whether ``text`` without its quotes would be a number."""
    return bool(_INT.fullmatch(text) or _FLOAT.fullmatch(text))


def check_text(text: str, where: str) -> None:
    """Refuse text that is not what it looks like, or that must not be written down.

    Raises:
        RecipeError: It holds a control, bidirectional or zero-width character, or an access token.
    """
    if text.isascii() and text.isprintable() and "hf_" not in text:
        return
    if match := _CONTROL.search(text):
        raise RecipeError(f"text holds the control character {code_point(match[0])}", where=where)
    if match := _HIDDEN.search(text):
        raise RecipeError(
            f"text holds the invisible character {code_point(match[0])}", where=where, hint="Remove or retype it."
        )
    if _SECRET.search(text):
        raise RecipeError(
            "a Hugging Face access token stands in the recipe",
            where=where,
            hint="Recipes are copied into run folders. Remove it and set the environment variable HF_TOKEN.",
        )


def find_control(text: str) -> int | None:
    """Return where the first control character (other than tab and line ends) stands."""
    match = _CONTROL.search(text.replace("\r", "\n"))
    return match.start() if match else None


def code_point(character: str) -> str:
    """Return ``U+202E RIGHT-TO-LEFT OVERRIDE`` for a character that would not show."""
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()


def shown(value: object) -> str:
    """Return ``value`` as a message names it: one line, not long."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return f".{value}".replace(".-", "-.")
    return json.dumps(value) if value is None or isinstance(value, bool | int | float) else repr(value)


def _refuse_two_readings(text: str, where: str) -> None:
    if _OCTAL.fullmatch(text) and text.strip("+-") != "0":
        digits = text.strip("+-").removeprefix("0o")
        octal = int(digits, 8) if len(digits) <= _LONGEST_INTEGER and not set("89") & set(digits) else None
        number = digits.lstrip("0") or "0" if octal is None else str(octal)
        sign = "-" if text.startswith("-") else ""
        raise RecipeError(
            f"{shown(text)[1:-1]} is an octal number to some readers of YAML and not to others",
            where=where,
            hint=f'Write {sign}{number[:_LONGEST_INTEGER]} or "{text[:_LONGEST_INTEGER]}".',
        )
    if _SEXAGESIMAL.fullmatch(text):
        raise RecipeError(
            f"{shown(text)[1:-1]} is a number to base 60 to some readers of YAML and text to others",
            where=where,
            hint=f'Write "{text[:60]}" for text, or the number as it is.',
        )
