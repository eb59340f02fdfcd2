"""Chat templates: the tokenizer's own, or one that a recipe names; jinja, run in transformers' sandbox."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftcli.data.complaints import did_you_mean, listed
from peftcli.errors import DataError, RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, Any]
Render = Callable[[Sequence[Message], bool], str]
"""From messages, and whether an assistant's turn shall be opened after them, to text."""

ENDING = ".jinja"
BUILT_IN = {
    "chatml": (
        "{{- bos_token }}"
        "{%- for message in messages %}"
        "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
    )
}
"""Templates by name; chatml's tags need not be tokens of the tokenizer."""

# A run is a function of its recipe: a template that asks for today's date is always told the same one.
_CLOCK = "strftime_now"
_STOPPED = "{%- macro strftime_now(form) -%}01 Jan 2025{%- endmacro -%}"


def read_template(said: str) -> str:
    """Return the template that ``data.chat_template`` names: a built-in one, or that of a file.

    Raises:
        RecipeError: There is neither.
    """
    if not said.endswith(ENDING):
        if said in BUILT_IN:
            return BUILT_IN[said]
        hint = f"{did_you_mean(said, BUILT_IN)}Built in is {listed(BUILT_IN)}; a path ends in {ENDING}."
        raise RecipeError(f"data.chat_template is {said!r}", hint=hint)
    try:
        return Path(said).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RecipeError("the chat template is not UTF-8 text", where=said, hint="Save the file as UTF-8.") from None
    except OSError as error:
        raise RecipeError(f"the chat template cannot be read: {error.strerror}", where=said) from None


def renderer(reader: PreTrainedTokenizerBase, template: str | None, where: str) -> Render:
    """Return what renders the messages of the row at ``where``.

    Args:
        reader: Whose own template is meant, unless there is one in ``template``.
        template: Text of a template.
        where: The row's ``file:line``.

    Raises:
        RecipeError: There is no template.
    """
    own = getattr(reader, "chat_template", None)
    if template is None and not own:
        raise RecipeError(
            "the tokenizer has no chat template, which rows of messages need",
            hint=f"Write data.chat_template: {listed(BUILT_IN)}, or the path of a {ENDING} file.",
        )
    try:
        text = _unhurried(template if template is not None else reader.get_chat_template())
    except ValueError as error:
        hint = "Write data.chat_template: the path of the one that is meant."
        raise RecipeError("the tokenizer has several chat templates and no default", hint=hint) from error

    def render(messages: Sequence[Message], opened: bool) -> str:
        try:
            return str(
                reader.apply_chat_template(
                    list(messages), chat_template=text, tokenize=False, add_generation_prompt=opened
                )
            )
        except Exception as error:  # a template is a program of somebody else's: it may fail in any way
            lines = str(error).strip().splitlines() or [type(error).__name__]
            name = "the tokenizer's chat template" if template is None else "data.chat_template"
            raise DataError(f"{name} cannot render this row: {lines[0]}", where=where) from error

    return render


def _unhurried(template: str) -> str:
    return _STOPPED + template if _CLOCK in template else template
