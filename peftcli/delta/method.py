"""The contract that every fine-tuning method keeps: settings, documentation and behaviour in one frozen object."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from peftcli.errors import MethodError
from peftcli.recipe.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.delta.delta import Delta
    from peftcli.delta.peft_form import PeftForm

Family = Literal["addition", "specification", "reparameterisation", "combination", "baseline"]
SHARES = 10**12  # into which a size setting that is a share is cut: finer than any base model has parameters


@dataclass(frozen=True, kw_only=True)
class Card:
    """What people are told about a method: one row of ``peft methods``.

    Attributes:
        title: The field's name for it.
        family: Where the literature files it.
        paper: arXiv number, or None where the method has no paper.
        size_setting: The setting that a budget is solved for; None where the size is fixed.
        mergeable: Whether some plain network computes what the adapted model computes, under the default settings.
        starts_at_base: Whether the adapted model equals the base before training.
        learning_rate: The published default.
        head_learning_rate: For a new head, where the method's own rate would be wrong for it; None: the same.
        source: Where the learning rate and the defaults come from.
        builds_on: The method whose trained deltas it is built on (see Method.built_on); None for most.
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
    builds_on: str | None = None


@dataclass(frozen=True, kw_only=True)
class VirtualTokens:
    """Ids beyond the vocabulary that the collator puts into every row, for methods that train input vectors.

    Attributes:
        count: How many; their ids are vocabulary, vocabulary + 1, ...
        first_id: The size of the vocabulary.
        after: How many real tokens stand before them: 0, or 1 where the first token is pooled.
        infix: How many of them, the last, stand after the row's prompt instead: between what is given and what is said.
    """

    count: int
    first_id: int
    after: int
    infix: int = 0

    @classmethod
    def of(cls, anatomy: Anatomy, prefix: int, *, after: int | None = None, infix: int = 0) -> Self:
        """Return ``prefix`` ids before a row's text (by default after a first token that is pooled) and an infix.

        Raises:
            MethodError: The base model reads no tokens, has no positions left for text, or nothing follows a prompt.
        """
        if not anatomy.vocabulary:
            raise MethodError(
                f"{anatomy.family} reads no tokens: it has no token embeddings to put vectors beside",
                hint="Use prefix or lora there.",
            )
        if infix and anatomy.arch != "decoder":
            raise MethodError(
                f"an infix stands before what a decoder goes on with, and {anatomy.family} is no decoder",
                hint="Write method.infix_length=0.",
            )
        count, allowed = prefix + infix, anatomy.max_positions
        if allowed is not None and count >= allowed:
            raise MethodError(
                f"{count} virtual tokens leave no room: {anatomy.family} has {allowed} positions",
                hint="Train fewer: the text needs positions too.",
            )
        first = int(anatomy.arch == "encoder") if after is None else after
        return cls(count=count, first_id=anatomy.vocabulary, after=first, infix=infix)


@dataclass(frozen=True, kw_only=True)
class PeftLayout:
    """A delta in Hugging Face peft's own form: its adapter_config.json and its tensors (or why there is none)."""

    config: dict[str, Any]
    tensors: dict[str, Any]
    exact: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedDelta:
    """A finished delta that a method is built on.

    Attributes:
        folder: Where it lies, for messages.
        identity: A hash of its tensors.
        methods: What was trained, under the settings that it is attached again with.
        tensors: What ``Delta.state`` returned.
    """

    folder: str
    identity: str
    methods: tuple[Method, ...]
    tensors: Mapping[str, Tensor]


class Method(Settings):
    """One method with its settings; the fields are the keys of a recipe's ``method:`` section.

    The module of a method imports no torch: ``attach`` imports the block it needs. So a mistyped recipe, ``peft
    methods`` and a count in closed form answer at once.
    """

    card: ClassVar[Card]
    name: ClassVar[str]
    size_setting: ClassVar[str | None] = None
    trains: ClassVar[bool] = True
    example_base: ClassVar[str] = "demo:minilm"

    def __init_subclass__(cls, **settings: Any) -> None:  # noqa: ANN401  # pydantic's
        super().__init_subclass__(**settings)
        cls.name = cls.__module__.rpartition(".")[2]  # methods/lora.py holds lora
        cls.size_setting = cls.card.size_setting if hasattr(cls, "card") else None

    @property
    def starts_at_base(self) -> bool:
        """Whether the adapted model equals the base before training, under these settings."""
        return self.card.starts_at_base

    @property
    def mergeable(self) -> bool:
        """Whether some plain network computes what the adapted model computes, under these settings."""
        return self.card.mergeable

    @property
    def learning_rate(self) -> float:
        """The published default under these settings."""
        return self.card.learning_rate

    @property
    def size_step(self) -> int:
        """What the size setting must be a multiple of, under these settings."""
        return 1

    def size_at(self, steps: int) -> int | float:
        """Return the size setting that is ``steps`` steps (from 1) large: more of them never train less.

        A whole number goes by ``size_step``, a share by the smallest part that makes a difference.
        """
        if isinstance(getattr(self, self.size_setting or ""), float):
            return steps / SHARES
        return steps * self.size_step

    def rate_factor(self, name: str) -> float:
        """Return what the learning rate is multiplied by for tensors whose address ends in ``name``."""
        return 1.0

    def prepared(self, encode: Callable[[str], list[int]]) -> Self:
        """Return the settings with what needs the base model's tokenizer; called before ``attach`` where there is one.

        Args:
            encode: Turns text into token ids, without special tokens.
        """
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        """The folders of the trained deltas that ``built_on`` wants, in their order."""
        return ()

    def built_on(self, deltas: Sequence[TrainedDelta]) -> Self:
        """Return the settings with the deltas of ``sources``; called before ``attach`` where a run begins.

        What of them the finished delta needs travels in its buffers, so nothing is built on them when it is opened.

        Raises:
            ArtifactError: One of them is of no use here.
            MethodError: There are too few of them.
        """
        return self

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

    @property
    def phases(self) -> int:
        """How many phases training has: each begins with a fresh optimizer and has its own learning-rate schedule.

        The steps of a run are shared out in equal parts, the first phases taking one more where they do not divide.
        What ``attach`` makes is the finished form, that of the last phase.
        """
        return 1

    def begin_phase(self, delta: Delta, phase: int) -> None:
        """Make ``delta`` what phase ``phase`` (from 0) trains: mask, prune, go back to the start.

        A resumed run begins all phases up to its own one after the other and then loads the state. So what is
        computed here must stand in the blocks' parameters and buffers, and must not fail on a delta that never moved.

        Raises:
            MethodError: The base model is too large for what the phase holds in memory.
        """

    def before_step(self, delta: Delta, step: int, total: int) -> None:
        """Do what every step needs before its first batch: draw noise, follow a schedule. ``step`` is from 1 on."""

    def before_update(self, delta: Delta) -> None:
        """Do what a step needs once the gradient of its whole batch stands in the parameters, before they move."""

    def penalty(self, delta: Delta) -> Tensor | None:
        """Return what is added to the mean loss, once per step."""
        return None

    def virtual_tokens(self, anatomy: Anatomy) -> VirtualTokens | None:
        """Return the ids that the collator must put into every row."""
        return None

    def packed(self) -> Self:
        """Return the settings under which the finished delta is attached again (see Block.pack)."""
        return self

    def peft_layout(self, delta: Delta) -> PeftLayout | str:
        """Return the delta as Hugging Face peft would store it, or one sentence on why it cannot."""
        return f"Hugging Face peft has no form for {self.name}"

    @classmethod
    def from_peft(cls, form: PeftForm, anatomy: Anatomy) -> Self | None:  # noqa: ARG003  # a hook, as below
        """Return the settings that compute what Hugging Face peft stored; None where it is another method's form.

        Raises:
            ArtifactError: It is this method's, and its settings cannot say it.
        """
        return None

    def take_peft(self, form: PeftForm, delta: Delta) -> dict[str, Tensor]:
        """Return what ``form`` holds for every tensor that this method trains in ``delta``, by address.

        Raises:
            ArtifactError: The base model's own numbers say otherwise.
        """
        raise NotImplementedError


def read_start(text: str, encode: Callable[[str], list[int]]) -> tuple[int, ...]:
    """Return the tokens of a setting ``start_text``.

    Raises:
        MethodError: There are none.
    """
    ids = tuple(encode(text))
    if not ids:
        raise MethodError(f"method.start_text is {text!r}, of which the tokenizer makes no token", hint="Write words.")
    return ids
