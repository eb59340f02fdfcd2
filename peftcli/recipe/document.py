"""A recipe as it was written: its data, and the place of every key and value.

The YAML is read event by event and nothing is ever constructed from it, so tags cannot run and aliases cannot
explode; size, depth and number of nodes are bounded while reading.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from yaml import YAMLError
from yaml.error import MarkedYAMLError
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.scanner import Scanner

from peftcli.errors import RecipeError
from peftcli.recipe import scalars
from peftcli.recipe.syntax import explain

MOST_BYTES = 1 << 20
MOST_NODES = 20_000
DEEPEST = 30

Loc = tuple[str | int, ...]


class Place(NamedTuple):
    """Where something was written; line and column from 1."""

    line: int
    column: int


START = Place(1, 1)
COMMAND_LINE = Place(1 << 60, 1)  # after every line of the file


@dataclass
class Document:
    """Plain data (dict, list, str, int, float, bool, None) and where each part of it was written.

    Attributes:
        file: The recipe's path, as messages show it.
        places: Of values.
        key_places: Of keys, by the location of their value.
        plain: Values written without quotes.
    """

    file: str
    data: Any
    places: dict[Loc, Place]
    key_places: dict[Loc, Place]
    plain: set[Loc]

    @classmethod
    def parse(cls, content: bytes, file: str) -> Self:
        """Read one YAML document.

        Raises:
            RecipeError: It is not the YAML that recipes are written in; only the first reason is given.
        """
        document = cls(file, None, {}, {}, set())
        document.data = _Builder(_text(content, file), document).build()
        if not isinstance(document.data, dict):
            raise RecipeError(
                f"a recipe is a mapping of keys, not {scalars.shown(document.data)}",
                where=document.where(START),
                hint="Start with `base:`; `peft init` writes a whole recipe.",
            )
        return document

    def where(self, place: Place) -> str:
        """Return ``file:line:column``, or ``command line``."""
        return "command line" if place == COMMAND_LINE else f"{self.file}:{place.line}:{place.column}"

    def place(self, loc: Loc) -> Place:
        """Return the place of the value at ``loc``, or of what it would stand in."""
        return next((self.places[loc[:n]] for n in range(len(loc), 0, -1) if loc[:n] in self.places), START)

    def key_place(self, loc: Loc) -> Place:
        """Return the place of the key at ``loc``, or of what it would stand in."""
        if loc in self.key_places:
            return self.key_places[loc]
        return self.place(loc) if loc in self.places or not loc else self.key_place(loc[:-1])

    def get(self, loc: Loc) -> Any:  # noqa: ANN401  # any YAML value
        """Return the value at ``loc``; None where there is none."""
        value = self.data
        for part in loc:
            value = value[part] if _has(value, part) else None
        return value

    def split(self, loc: Loc) -> tuple[Loc, bool]:
        """Return the part of ``loc`` that the data has, and whether anything else stood in it.

        Pydantic puts names of union members among the keys; the last part may be a key that is missing.
        """
        value, real = self.data, []
        for part in loc:
            if _has(value, part):
                value = value[part]
                real.append(part)
        return tuple(real), len(real) < len(loc)

    def texts(self) -> Iterator[tuple[Loc, str]]:
        """Yield every text value with its location."""
        yield from _texts(self.data, ())

    def put(self, loc: Loc, value: Any, place: Place) -> None:  # noqa: ANN401
        """Put ``value`` at ``loc``, whose parent exists, as if it were written at ``place``."""
        self.get(loc[:-1])[loc[-1]] = value
        for table in (self.places, self.key_places):
            for old in [known for known in table if known[: len(loc)] == loc]:
                del table[old]
            table[loc] = place


def _has(value: Any, part: str | int) -> bool:  # noqa: ANN401
    if isinstance(value, list):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, dict) and part in value


def _texts(value: Any, loc: Loc) -> Iterator[tuple[Loc, str]]:  # noqa: ANN401
    if isinstance(value, str):
        yield loc, value
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _texts(item, (*loc, key))


def _text(content: bytes, file: str) -> str:
    if len(content) > MOST_BYTES:
        raise RecipeError(f"the recipe is larger than {MOST_BYTES:,} bytes", where=f"{file}:1")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise RecipeError("not UTF-8 at byte 0, line 1 (it looks like UTF-16)", where=f"{file}:1", hint=_SAVE)
    mark = 3 if content.startswith(b"\xef\xbb\xbf") else 0
    try:
        text = content[mark:].decode()
    except UnicodeDecodeError as error:
        offset = error.start + mark
        line = content.count(b"\n", 0, offset) + 1
        raise RecipeError(f"not UTF-8 at byte {offset}, line {line}", where=f"{file}:{line}", hint=_SAVE) from None
    if (index := scalars.find_control(text)) is not None:
        line, offset = text.count("\n", 0, index) + 1, len(text[:index].encode()) + mark
        name = scalars.code_point(text[index])
        raise RecipeError(f"control character {name} at byte {offset}, line {line}", where=f"{file}:{line}")
    return text.replace("\r\n", "\n").replace("\r", "\n")


_SAVE = "Save the recipe as UTF-8."


class _Events(Reader, Scanner, Parser):
    """PyYAML's reader without its resolver and its constructor."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)


class _Builder:
    """Turns events into plain data and notes the places in the document."""

    def __init__(self, text: str, document: Document) -> None:
        self._document = document
        self._nodes = 0
        for number, line in enumerate(text.split("\n"), 1):
            if line.startswith("%"):
                raise self._error("a line cannot start with '%'", Place(number, 1), _QUOTE)
        self._events = _Events(text)

    def build(self) -> Any:  # noqa: ANN401
        """Return the data of the only document."""
        self._next()  # the start of the stream
        if isinstance(self._next(), StreamEndEvent):
            raise self._error("the recipe is empty", START, "Start with `base:`; `peft init` writes a whole recipe.")
        data = self._node(self._next(), (), 1)
        self._next()  # the end of the document
        if isinstance(event := self._next(), DocumentStartEvent):
            raise self._error("there is one document per recipe", _start(event), "Remove the line `---`.")
        return data

    def _next(self) -> Event:
        try:
            event: Event = self._events.get_event()  # type: ignore[no-untyped-call]
        except MarkedYAMLError as error:
            what, mark, hint = explain(error)
            raise self._error(what, Place(mark.line + 1, mark.column + 1) if mark else START, hint) from None
        except (YAMLError, ValueError, OverflowError) as error:  # an escape beyond Unicode
            mark = self._events.get_mark()
            raise self._error(f"a character cannot be read ({error})", Place(mark.line + 1, mark.column + 1)) from None
        return event

    def _node(self, event: Event, loc: Loc, depth: int) -> Any:  # noqa: ANN401
        self._check(event, depth)
        self._document.places[loc] = _start(event)
        if isinstance(event, MappingStartEvent):
            return self._mapping(event, loc, depth)
        if isinstance(event, SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(event := self._next(), SequenceEndEvent):
                items.append(self._node(event, (*loc, len(items)), depth + 1))
            return items
        assert isinstance(event, ScalarEvent)
        where = self._document.where(_start(event))
        scalars.check_text(event.value, where)
        if event.style is not None:
            return event.value
        self._document.plain.add(loc)
        return scalars.resolve(event.value, where)

    def _mapping(self, start: MappingStartEvent, loc: Loc, depth: int) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        while not isinstance(event := self._next(), MappingEndEvent):
            key = self._key(start, event, depth)
            if key in mapping:
                first = self._document.key_places[(*loc, key)]
                raise self._error(f"{scalars.shown(key)} is given twice, first in line {first.line}", _start(event))
            self._document.key_places[(*loc, key)] = _start(event)
            mapping[key] = self._node(self._next(), (*loc, key), depth + 1)
        return mapping

    def _key(self, start: MappingStartEvent, event: Event, depth: int) -> str:
        self._check(event, depth)
        if isinstance(event, MappingStartEvent) and start.flow_style and event.flow_style:
            raise self._error("a plain value cannot start with '{{'", _start(start), _QUOTE)
        where = self._document.where(_start(event))
        if not isinstance(event, ScalarEvent):
            raise RecipeError("keys must be text, not lists or mappings", where=where)
        scalars.check_text(event.value, where)
        if event.style is None and not isinstance(scalars.resolve(event.value, where), str):
            key = scalars.shown(event.value)[1:-1]
            raise RecipeError(f"keys must be text, not {key or 'empty'}", where=where, hint=f'Quote it: "{key}".')
        return str(event.value)

    def _check(self, event: Event, depth: int) -> None:
        """Refuse what recipes have no use for before anything is made of it."""
        self._nodes += 1
        if self._nodes > MOST_NODES:
            raise self._error(f"the recipe has more than {MOST_NODES:,} values", _start(event))
        if depth > DEEPEST:
            raise self._error(f"nested deeper than {DEEPEST}", _start(event))
        if isinstance(event, AliasEvent):
            raise self._error(f"aliases (*{event.anchor}) are not allowed", _start(event), "Write the value out.")
        assert isinstance(event, NodeEvent)
        if event.anchor is not None:
            raise self._error(f"anchors (&{event.anchor}) are not allowed", _start(event), "Write the value out.")
        tag = getattr(event, "tag", None)
        if tag is not None:
            name = scalars.shown(tag.replace("tag:yaml.org,2002:", "!!"))[1:-1]
            raise self._error(f"tags ({name}) are not allowed", _start(event), "Remove it.")

    def _error(self, what: str, place: Place, hint: str | None = None) -> RecipeError:
        return RecipeError(what, where=self._document.where(place), hint=hint)


_QUOTE = "Quote this value."


def _start(event: Event) -> Place:
    assert event.start_mark is not None  # every event that is read has one
    return Place(event.start_mark.line + 1, event.start_mark.column + 1)
