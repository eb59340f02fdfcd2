"""JSON Lines and JSON lists, read strictly: what another parser would read otherwise is refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from peftcli.data.complaints import Complaints
from peftcli.data.squad_json import is_squad, squad_rows
from peftcli.data.tables import Row
from peftcli.errors import DataError, Problem

_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_BLANK = " \t\r"


class _RefusedError(ValueError):
    """Valid for Python's parser, and yet refused."""


def jsonl_rows(lines: Iterable[str], name: str, skip: Iterator[int]) -> Iterator[Row | Problem]:
    """Yield one row per line that is not blank, or what is wrong with the line.

    Args:
        lines: The file's, each with the newline it ends in.
        name: The file's.
        skip: As many rows as it has items left are passed over without a look at them.
    """
    for number, ended in enumerate(lines, start=1):
        line = ended.removesuffix("\n")
        if not line.strip(_BLANK) or next(skip, None) is not None:
            continue
        try:
            values = _parse(line)
        except json.JSONDecodeError as error:
            hint = _line_hint(line, last=line is ended)
            yield Problem(what=_broken(error), where=f"{name}:{number}:{error.colno}", hint=hint)
        except (_RefusedError, RecursionError) as error:
            yield Problem(what=_refused(error), where=f"{name}:{number}")
        else:
            if isinstance(values, dict):
                yield Row(values, f"{name}:{number}")
            else:
                hint = "Name a file that holds one JSON list .json." if isinstance(values, list) else None
                what = f"the line is not an object but {line.strip()[:30]!r}"
                yield Problem(what=what, where=f"{name}:{number}", hint=hint)


def read_json(text: str, name: str) -> list[Row]:
    """Return one row per object of the list that the file holds, or per question of SQuAD's nested form.

    Raises:
        DataError: The file is neither.
    """
    complaints = Complaints(name)
    try:
        items = _parse(text)
    except json.JSONDecodeError as error:
        hint = "Name a file with one object a line .jsonl." if error.msg == "Extra data" else None
        raise DataError(_broken(error), where=f"{name}:{error.lineno}:{error.colno}", hint=hint) from None
    except (_RefusedError, RecursionError) as error:
        raise DataError(_refused(error), where=name) from None
    if is_squad(items):
        return squad_rows(items, name)
    if not isinstance(items, list):
        raise DataError("the file is not a list of objects", where=name, hint="Write [{...}, {...}].")
    for number, item in enumerate(items, start=1):
        if not isinstance(item, dict):
            complaints.add(f"not an object but {str(item)[:30]!r}", f"row {number}")
    complaints.raise_if_any()
    return [Row(item, f"{name}:row {number}") for number, item in enumerate(items, start=1)]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [key for key, _ in pairs]
        raise _RefusedError(f"key {next(key for key in names if names.count(key) > 1)!r} stands twice in one object")
    return values


def _constant(name: str) -> NoReturn:
    raise _RefusedError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise _RefusedError(f"the number {digits[:30]} is too large")
    return number


def _integer(digits: str) -> int:
    # Python refuses thousands of digits with an error of its own, and no label or text needs them.
    if len(digits) > 40:
        raise _RefusedError(f"the number {digits[:30]}... has {len(digits)} digits")
    return int(digits)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_constant, parse_float=_finite, parse_int=_integer
)


def _parse(text: str) -> Any:  # noqa: ANN401 (a JSON value)
    value = _DECODER.decode(text)
    if _SURROGATE.search(text) and (at := _lone_surrogate(text)) is not None:
        raise json.JSONDecodeError("Lone surrogate, half of a character,", text, at)
    return value


def _lone_surrogate(text: str) -> int | None:
    """Return where the escape of half a character stands without its other half."""
    high: re.Match[str] | None = None
    for escape in _ESCAPE.finditer(text):
        code = int(escape[1], 16) if escape[1] else 0
        low = 0xDC00 <= code <= 0xDFFF
        paired = high is not None and high.end() == escape.start() and low
        if high is not None and not paired:
            return high.start()
        if low and not paired:
            return escape.start()
        high = escape if 0xD800 <= code <= 0xDBFF else None
    return high.start() if high else None


def _broken(error: json.JSONDecodeError) -> str:
    what = error.msg[0].lower() + error.msg[1:].removesuffix(" at").removesuffix(" starting at").rstrip(",")
    return f"broken JSON: {what}"


def _refused(error: Exception) -> str:
    return "the JSON is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _line_hint(line: str, *, last: bool) -> str | None:
    if line.strip(_BLANK) == "[":
        return "Name a file that holds one JSON list .json."
    return "The file ends inside this line: was it cut short?" if last else None
