"""The one base of everything a recipe can say: strict, frozen, documented by attribute docstrings."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class IsPath:
    """Marks a field whose texts are paths; a path means the same from every folder once the recipe is read.

    In a file it is relative to that file's folder, on the command line to the working directory.

    Attributes:
        meant: Whether a text is a path that does not begin like one (with ``./``, ``../``, ``~`` or ``/``), given the
            folder it would be relative to; None: every text is.
    """

    meant: Callable[[str, Path], bool] | None = None


class Settings(BaseModel):
    """Unknown keys are errors, nothing is coerced, nothing changes after validation."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=False,
    )
