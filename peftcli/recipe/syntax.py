"""PyYAML's syntax errors, in words that say what to do."""

from __future__ import annotations

from yaml.error import Mark, MarkedYAMLError

_QUOTE = "Quote this value."
_SAYINGS = (
    # part of PyYAML's context or problem, what is said instead, hint
    ("cannot start any token", "a plain value cannot start with {found}", _QUOTE),
    ("scanning an alias", "aliases (*name) are not allowed", "If the * belongs to the text, quote this value."),
    ("scanning an anchor", "anchors (&name) are not allowed", "If the & belongs to the text, quote this value."),
    ("ing a tag", "tags (!name) are not allowed", "If the ! belongs to the text, quote this value."),
    ("end of stream", "a quote is opened and never closed", "Close it with the same quotation mark."),
    ("',' or ']'", "a list opened with '[' (line {opened}) is not closed", "Separate by ',' and close with ']'."),
    ("',' or '}'", "a mapping opened with '{{' (line {opened}) is not closed", "Separate by ',' and close with '}'."),
    ("mapping values are not allowed", "a ':' is not expected here", "Check the indentation, or quote this value."),
    ("could not find expected ':'", "a key without ':'", "Write `key: value`; a text of several lines needs quotes."),
    ("expected <block end>", "this line does not fit the lines above it", "Indent sister keys alike, with spaces."),
    ("document start", "this line does not fit the lines above it", "Write one mapping of keys, indented alike."),
    (
        "sequence entries are not allowed",
        "a list item ('- ') is not expected here",
        "Start a list on its own line, or quote this value.",
    ),
    ("'<stream end>'", "the text ends where a value is expected", "Close what is open."),
    ("expected the node content", "a value cannot start with {found}", _QUOTE),
    ("scanning a block scalar", "a text cannot follow '|' or '>' on its line", _QUOTE),
    ("unknown escape character", "unknown escape {found} in double quotes", "Double the backslash or use '...'."),
)


def explain(error: MarkedYAMLError) -> tuple[str, Mark | None, str | None]:
    r"""Return what is wrong, where, and what to do.

    A tab is told apart from other characters that start nothing: ``\t`` in the indentation is the commonest of all.
    """
    problem, context = str(error.problem or error), str(error.context or "")
    mark = error.problem_mark or error.context_mark
    found = problem[problem.index("'") :].split(" that ")[0] if "'" in problem else ""
    if "'\\t'" in problem:
        return "a tab cannot indent", mark, "Use spaces."
    for part, what, hint in _SAYINGS:
        if part in problem or part in context:
            opened = error.context_mark.line + 1 if error.context_mark else 1
            return what.format(found=found, opened=opened), mark, hint
    return f"not YAML: {problem}", mark, None
