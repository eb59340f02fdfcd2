"""What the user is shown when something cannot go on: where, what, and what to do."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One mistake.

    Attributes:
        what: One sentence, lower case, no full stop, naming the offending value.
        where: ``file:line:column``, ``command line``, a folder; None where there is no better place than the command.
        hint: What to do about it, as a full sentence.
    """

    what: str
    where: str | None = None
    hint: str | None = None

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  hint: {self.hint}" if self.hint else head


class PeftcliError(Exception):
    """A mistake the user can mend; carries every problem of the stage that found it.

    The exit code of each kind is a contract with scripts; the kinds are the subclasses below.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str | Iterable[Problem], *, where: str | None = None, hint: str | None = None) -> None:
        problems = (Problem(what=what, where=where, hint=hint),) if isinstance(what, str) else tuple(what)
        assert problems, "an error without a problem"
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class RecipeError(PeftcliError):
    """The command or the recipe is wrong."""

    exit_code = 2


class DataError(PeftcliError):
    """The data cannot be used."""

    exit_code = 3


class BaseModelError(PeftcliError):
    """The base model or its tokenizer cannot be used."""

    exit_code = 4


class MethodError(BaseModelError):
    """The method cannot do this on this base model."""


class ArtifactError(PeftcliError):
    """An artifact or a checkpoint is damaged or does not fit."""

    exit_code = 5


class DivergedError(PeftcliError):
    """Training went wrong: the loss is not finite, nothing trains, or a frozen tensor moved."""

    exit_code = 6


class ResourceError(PeftcliError):
    """Disk, memory, permission or a lock stands in the way."""

    exit_code = 7


class DistributedError(PeftcliError):
    """A process of a distributed run failed or disagrees."""

    exit_code = 8


class CheckFailed(PeftcliError):
    """The work is done, but a check of it failed."""

    exit_code = 9


class Stopped(PeftcliError):
    """The run was asked to stop and saved a checkpoint first: run it again to continue."""

    exit_code = 75
