"""From a recipe to an adapted model: recipe -> base -> method -> delta, with the task beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from peftcli.base.source import Source, find_source, read_config
from peftcli.data.complaints import listed
from peftcli.delta.budget import Solved, solve_all
from peftcli.delta.method import Method
from peftcli.errors import RecipeError
from peftcli.recipe.budget import Budgeted

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.data.examples import Examples, VirtualTokens
    from peftcli.data.tables import Table
    from peftcli.data.tasks import Task
    from peftcli.recipe.recipe import BaseSection, Recipe

LONGEST = 512  # tokens, where the recipe does not say; memory grows with the square


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How rows are read for a base model, once the task and the methods know its reader and its shape."""

    methods: tuple[Method, ...]
    task: Task
    reader: Any
    pad: int
    virtual: VirtualTokens | None
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A base model, a task, the methods for it, and what turns rows into batches for them.

    Attributes:
        reader: What the task's rows are read with: a tokenizer, or the base model's own image reader.
        pad: The id that rows of text are padded with.
    """

    source: Source
    base: BaseModel
    methods: tuple[Method, ...]
    task: Task
    reader: Any
    pad: int
    virtual: VirtualTokens | None
    notes: tuple[str, ...]

    @property
    def dtype(self) -> torch.dtype:
        """How the frozen weights are held."""
        dtype: torch.dtype = next(iter(self.base.parameters.values())).dtype
        return dtype

    def encode(self, table: Table) -> Examples:
        """Return the rows of ``table`` as the network reads them."""
        return self.task.encode(table, self.reader, *self._limits)

    def encode_once(self, table: Table, note: Callable[[str], None]) -> Examples:
        """Return the same; of many rows of text, what an earlier run made of them."""
        from peftcli.data.cache import FEWEST_ROWS, encoding_key, kept_or_made

        many = len(table) >= FEWEST_ROWS and self.task.reads == "text"
        key = encoding_key(self.task, table, self.reader, self._limits) if many else None
        return kept_or_made(key, table, lambda: self.encode(table), note) if key else self.encode(table)

    @property
    def _limits(self) -> tuple[int, int | None]:
        return self.task.max_length or LONGEST, self.base.anatomy.vocabulary


def solve_budgets(recipe: Recipe) -> tuple[Recipe, tuple[Solved, ...]]:
    """Return the recipe with sizes in place of budgets, solved from the base model's config, and what was solved.

    Raises:
        BaseModelError: There is no such base model.
        MethodError: A budget is too small, or a method has no meaning on this base model.
    """
    if not any(isinstance(m, Budgeted) for m in recipe.method):
        return recipe, ()
    from peftcli.base.networks import anatomy_for
    from peftcli.data.tasks import model_class

    config = read_config(recipe.base.name, recipe.base.revision)
    anatomy = anatomy_for(config, model_class(recipe.data.task))
    methods, solved = solve_all(recipe.method, anatomy)
    return recipe.model_copy(update={"method": methods}), solved


def methods_of(recipe: Recipe) -> tuple[Method, ...]:
    """Return the methods of a recipe whose budgets are solved."""
    methods = tuple(m for m in recipe.method if isinstance(m, Method))
    assert len(methods) == len(recipe.method)
    return methods


def prepare(section: BaseSection, task: Task, methods: tuple[Method, ...], *, seed: int) -> Prepared:
    """Load the base model that ``section`` names, with the head that ``task`` needs.

    Raises:
        BaseModelError: The base model, its tokenizer or its image processor cannot be used.
        RecipeError: The inputs are longer than the base model allows.
    """
    from peftcli.base.loading import load_base

    source = find_source(section.name, section.revision)
    base = load_base(
        source,
        task_class=task.model_class,
        settings=task.network_settings(),
        dtype=section.dtype,
        new_head=task.new_head,
        seed=seed,
        quantise=section.quantise,
        pooling=task.pooling,
    )
    reading = prepare_reading(source, base.anatomy, task, methods)
    return Prepared(
        source=source,
        base=base,
        methods=reading.methods,
        task=reading.task,
        reader=reading.reader,
        pad=reading.pad,
        virtual=reading.virtual,
        notes=(*reading.notes, *_kept_classifier(source, task)),
    )


def prepare_reading(source: Source, anatomy: Anatomy, task: Task, methods: tuple[Method, ...]) -> Reading:
    """Load what rows are read with; the network is not needed for it, and ``source`` need not hold its weights.

    Raises:
        BaseModelError: The tokenizer or the image processor cannot be used.
        RecipeError: The inputs are longer than the base model allows.
    """
    reader, pad, notes = _reader(source, anatomy, task)
    if task.reads == "text":
        methods = tuple(m.prepared(partial(_encode, reader)) for m in methods)
    virtual = virtual_tokens(methods, anatomy)
    if task.reads == "text":
        task = replace(task, max_length=_max_length(task.max_length, anatomy, virtual))
    return Reading(methods=methods, task=task, reader=reader, pad=pad, virtual=virtual, notes=notes)


def virtual_tokens(methods: tuple[Method, ...], anatomy: Anatomy) -> VirtualTokens | None:
    """Return the virtual tokens that the collator must place; attaching refuses a second method that asks for some."""
    return next((v for m in methods if (v := m.virtual_tokens(anatomy)) is not None), None)


def _reader(source: Source, anatomy: Anatomy, task: Task) -> tuple[Any, int, tuple[str, ...]]:
    """Return what the task's rows are read with, the id they are padded with, and what people should know of it."""
    if task.reads == "images":
        from peftcli.base.image_reader import load_image_reader

        return load_image_reader(source, anatomy), 0, ()
    from peftcli.base.loading import load_tokenizer

    return load_tokenizer(source)


def _kept_classifier(source: Source, task: Task) -> tuple[str, ...]:
    """Return what people should know of a head that the checkpoint has already, for labels of other names."""
    config = read_config(str(source.folder))
    theirs = [str(name) for name in (config.get("id2label") or {}).values()]
    ours = [str(name) for name in task.network_settings().get("id2label", {}).values()]
    classifies = any(str(name).endswith("Classification") for name in config.get("architectures") or ())
    if not (task.new_head and classifies and len(theirs) == len(ours) and theirs != ours):
        return ()
    return (f"the base model's classifier of {listed(theirs)} is where the head for {listed(ours)} starts",)


def _encode(tokenizer: Any, text: str) -> list[int]:  # noqa: ANN401  # transformers is not imported for a type
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _max_length(wanted: int | None, anatomy: Anatomy, virtual: VirtualTokens | None) -> int:
    allowed = anatomy.max_positions
    if allowed is None:
        return wanted or LONGEST
    taken = virtual.count if virtual else 0
    room = allowed - taken
    if room < 1 or (wanted or 0) > room:
        why = f", of which the prompt takes {taken}" if taken else ""
        raise RecipeError(
            f"inputs of {wanted or 1} tokens do not fit: {anatomy.family} has {allowed} positions{why}",
            hint=f"Write data.max_length of at most {room}." if room > 0 else "Write a shorter prompt.",
        )
    return wanted or min(LONGEST, room)
