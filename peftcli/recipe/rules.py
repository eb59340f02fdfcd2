"""Rules across the keys of a recipe; each names every line that has a part in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from peftcli.recipe.document import Document
from peftcli.recipe.problems import Complaint, dotted
from peftcli.recipe.recipe import SHARE_FORM

Rule = Callable[[Document], Iterator[Complaint]]


def epochs_or_steps(document: Document) -> Iterator[Complaint]:
    """Training has one length."""
    given = [("training", key) for key in ("epochs", "steps") if document.get(("training", key)) is not None]
    if len(given) == 2:
        first, second = sorted(given, key=document.key_place)
        place = document.key_place(second)
        what = f"{dotted(second)} excludes {dotted(first)} ({document.where(document.key_place(first))})"
        yield Complaint(place, second, what, f"Keep one of them; {dotted(first)}=null takes the other back.")


def shares_of_a_whole(document: Document) -> Iterator[Complaint]:
    """Shares stay below the whole: of the training rows something must be left."""
    for loc in (("data", "validation"), ("training", "warmup")):
        share = document.get(loc)
        if isinstance(share, str) and re.match(SHARE_FORM, share) and not _below_whole(share, loc[0] == "data"):
            low = "more than 0%" if loc[0] == "data" else "at least 0%"
            what = f"{dotted(loc)} is {share!r}, but must be {low} and less than 100%"
            yield Complaint(document.place(loc), loc, what)


def rows_to_learn_from(document: Document) -> Iterator[Complaint]:
    """A list of files, or the name of one, is not empty."""
    for key in ("train", "validation", "test"):
        loc = ("data", key)
        if document.get(loc) in ("", []):
            yield Complaint(document.place(loc), loc, f"{dotted(loc)} names no file")


def rows_that_are_drawn(document: Document) -> Iterator[Complaint]:
    """Training rows are drawn in one way."""
    if all(document.get(("data", key)) is not None for key in ("limit", "shots")):
        loc = ("data", "shots")
        yield Complaint(document.key_place(loc), loc, "data.shots excludes data.limit", "Keep one of them.")


def rows_that_are_streamed(document: Document) -> Iterator[Complaint]:
    """What needs all training rows at once does not go with streaming them."""
    streaming = ("data", "streaming")
    if document.get(streaming) is not True:
        return
    place = document.key_place(streaming)
    if document.get(("training", "steps")) is None:
        what = "data.streaming needs training.steps: nobody has counted the rows of an epoch"
        yield Complaint(place, streaming, what, "Write training.steps.")
    for key in ("limit", "shots", "forbid_overlap", "validation"):
        loc, value = ("data", key), document.get(("data", key))
        is_share = isinstance(value, str) and re.match(SHARE_FORM, value)
        if is_share or (key != "validation" and value not in (None, False)):
            what = f"{dotted(loc)} needs all training rows, which data.streaming does not hold"
            hint = "Name a file of validation rows." if is_share else "Leave one of them out."
            yield Complaint(document.key_place(loc), loc, what, hint)


RULES: tuple[Rule, ...] = (
    epochs_or_steps,
    shares_of_a_whole,
    rows_to_learn_from,
    rows_that_are_drawn,
    rows_that_are_streamed,
)


def _below_whole(share: str, positive: bool) -> bool:
    percent = float(share.strip().rstrip("%"))
    return percent < 100 and (percent > 0 or not positive)
