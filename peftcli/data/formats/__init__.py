"""The formats of a language model's rows: each file holds one. The first whose columns are there is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peftcli.data.complaints import did_you_mean, listed
from peftcli.data.formats.alpaca import Alpaca
from peftcli.data.formats.format import Format, Rendering, Segment, TrainOn
from peftcli.data.formats.messages import Messages
from peftcli.data.formats.plain_text import PlainText
from peftcli.data.formats.prompt_completion import PromptCompletion
from peftcli.data.formats.sharegpt import ShareGpt
from peftcli.errors import Problem, RecipeError

__all__ = ["Format", "Rendering", "Segment", "TrainOn", "find_format", "format_of"]

FORMATS: tuple[type[Format], ...] = (Messages, ShareGpt, PromptCompletion, Alpaca, PlainText)


def find_format(given: Mapping[str, str], present: Sequence[str]) -> type[Format]:
    """Return the format that a recipe's ``data.columns`` names, or else that of files with the columns ``present``.

    Raises:
        RecipeError: The recipe names columns that no format has, or those of two.
    """
    roles = {role: form for form in FORMATS for role in form.roles()}
    hint = f"The formats are {'; '.join(', '.join(form.roles()) for form in FORMATS)}."
    unknown = [role for role in given if role not in roles]
    if unknown:
        what = "data.columns has no key {!r}"
        raise RecipeError(
            [Problem(what=what.format(r), hint=f"{did_you_mean(r, roles)}{hint}") for r in unknown],
        )
    named = list(dict.fromkeys(roles[role] for role in given))
    if len(named) > 1:
        raise RecipeError(f"data.columns names {listed(given)}, which no format has together", hint=hint)
    return next(iter(named or (form for form in FORMATS if form.fits(present))), PromptCompletion)


def format_of(columns: Mapping[str, str]) -> type[Format] | None:
    """Return the format whose columns these are: no two formats call one alike."""
    return next((f for f in FORMATS if columns.keys() <= set(f.roles()) and set(f.required) <= columns.keys()), None)
