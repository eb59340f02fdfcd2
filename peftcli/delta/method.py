"""The contract that every fine-tuning method keeps: settings, documentation and behaviour in one frozen object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from peftcli.recipe.settings import Settings

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.delta.delta import Delta

Family = Literal["addition", "specification", "reparameterisation", "combination"]


@dataclass(frozen=True, kw_only=True)
class Card:
    """What people are told about a method: one row of ``peft methods``.

    Attributes:
        title: The field's name for it.
        family: Where the literature files it.
        paper: arXiv number, or None where the method has no paper.
        size_setting: The setting that a budget is solved for; None where the size is fixed.
        mergeable: Whether some plain network computes what the adapted model computes.
        starts_at_base: Whether the adapted model equals the base before training.
        learning_rate: The published default.
        head_learning_rate: For a new head, where the method's own rate would be wrong for it; None: the same.
        source: Where the learning rate and the defaults come from.
    """

    title: str
    family: Family
    paper: str | None
    size_setting: str | None
    mergeable: bool
    starts_at_base: bool
    learning_rate: float
    source: str
    head_learning_rate: float | None = None
    traps: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class VirtualTokens:
    """Ids beyond the vocabulary that the collator puts into every row, for methods that train input vectors.

    Attributes:
        count: How many; their ids are vocabulary, vocabulary + 1, ...
        first_id: The size of the vocabulary.
        after: How many real tokens stand before them: 0, or 1 where the first token is pooled.
    """

    count: int
    first_id: int
    after: int


@dataclass(frozen=True, kw_only=True)
class PeftLayout:
    """A delta in Hugging Face peft's own form: its adapter_config.json and its tensors (or why there is none)."""

    config: dict[str, Any]
    tensors: dict[str, Any]
    exact: bool


class Method(Settings):
    """One method with its settings; the fields are the keys of a recipe's ``method:`` section.

    The module of a method imports no torch: ``attach`` imports the block it needs. So a mistyped recipe, ``peft
    methods`` and a count in closed form answer at once.
    """

    card: ClassVar[Card]
    name: ClassVar[str]

    def __init_subclass__(cls, **settings: Any) -> None:  # noqa: ANN401  # pydantic's
        super().__init_subclass__(**settings)
        cls.name = cls.__module__.rpartition(".")[2]  # methods/lora.py holds lora

    @property
    def starts_at_base(self) -> bool:
        """Whether the adapted model equals the base before training, under these settings."""
        return self.card.starts_at_base

    @property
    def learning_rate(self) -> float:
        """The published default under these settings."""
        return self.card.learning_rate

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        """Return how many numbers train at each place, without the head, in closed form: address -> count."""
        raise NotImplementedError

    def count(self, anatomy: Anatomy) -> int:
        """Return |Phi|: the sum of ``sizes``."""
        return sum(self.sizes(anatomy).values())

    def attach(self, base: BaseModel) -> None:
        """Put blocks into ``base`` or unfreeze some of its parameters. What requires a gradient then is the delta.

        Raises:
            MethodError: The method has no meaning on this base model.
        """
        raise NotImplementedError

    def virtual_tokens(self, anatomy: Anatomy) -> VirtualTokens | None:
        """Return the ids that the collator must put into every row."""
        return None

    def packed(self) -> Self:
        """Return the settings under which the finished delta is attached again (see Block.pack)."""
        return self

    def peft_layout(self, delta: Delta) -> PeftLayout | str:
        """Return the delta as Hugging Face peft would store it, or one sentence on why it cannot."""
        return f"Hugging Face peft has no form for {self.name}"
