"""``peft params``: what a method would train, from a config alone and, if asked, from a network without weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from peftcli.base.anatomy import NETWORKS, Anatomy
from peftcli.base.networks import IMAGES, anatomy_for
from peftcli.base.source import read_config
from peftcli.data.tasks import model_class
from peftcli.delta.budget import solve_all
from peftcli.delta.count import closed_form
from peftcli.delta.method import Method
from peftcli.delta.registry import describe, find, names
from peftcli.errors import CheckFailed, MethodError, RecipeError
from peftcli.pipeline.answering import untrained
from peftcli.pipeline.reading import method_of, read
from peftcli.recipe.budget import HINT, Budgeted, is_budget, kinds
from peftcli.recipe.recipe import Recipe
from peftcli.recipe.settings import Settings

ALL = "all"
RECIPES = (".yaml", ".yml")
CLASSES = {task: name for name, task in NETWORKS.items() if name != IMAGES}
TASKS = {"decoder": "causal-lm"}  # what a bare model is counted for; every other kind as a classifier


def params(
    target: str, overrides: Sequence[str], method: str | None, counted: bool, budget: str | None
) -> list[dict[str, Any]]:
    """Count the parameters that one method, or every method, trains on a model.

    Args:
        target: A recipe, or a model: its folder, its config.json, or a hub id that was fetched before.
        overrides: ``method.rank=4``; with a recipe, any of its keys.
        method: The name of a method instead of the recipe's, or "all".
        counted: Also build the network without weights, attach, and count tensors.
        budget: Solves the size setting of every method that has one, whatever the recipe says of it.

    Raises:
        PeftcliError: The target or a setting is wrong, or a method has no meaning on this model.
    """
    if budget is not None and not is_budget(budget):
        raise RecipeError(f"'{budget}' is no budget", where="command line", hint=HINT)
    config, task, labels, methods = _read(target, list(overrides), method)
    anatomy = Anatomy.of(config, task=task, labels=labels)
    if method != ALL:
        return [_count(_limited(methods, budget), anatomy, config, counted=counted)]
    rows = []
    for name in names():
        own = find(name)()
        fixed = budget is not None and own.size_setting is None
        row = _row((own,) if fixed else _limited((own,), budget), anatomy, config, counted=counted)
        rows.append({**row, "note": row["note"] or "has one size, whatever the budget"} if fixed else row)
    return rows


def _read(
    target: str, overrides: list[str], method: str | None
) -> tuple[dict[str, Any], str | None, int | None, tuple[Settings, ...]]:
    if Path(target).suffix in RECIPES:
        recipe = read(
            Path(target), [f"method={{name: {method}}}", *overrides] if method not in (None, ALL) else overrides
        )
        config = read_config(recipe.base.name)
        single = None if method == ALL else untrained(tuple(m for m in kinds(recipe.method) if isinstance(m, Method)))
        network = single.network_class if single else model_class(recipe.data.task)
        task = anatomy_for(config, network).task
        return config, task, _labels(recipe), recipe.method
    config = read_config(target)
    if method is None:
        raise RecipeError("no method is named", where="command line", hint="Write --method NAME or --method all.")
    task = TASKS.get(Anatomy.of(config).arch, "classification")
    return config, task, None, () if method == ALL else method_of(method, overrides)


def _limited(methods: tuple[Settings, ...], budget: str | None) -> tuple[Settings, ...]:
    """Return the method with a budget in place of the size that it has.

    Raises:
        RecipeError: It is a stack, or has no size setting.
    """
    if budget is None:
        return methods
    if len(methods) != 1:
        raise RecipeError(
            "one budget cannot be shared out in a stack",
            where="command line",
            hint="Write a budget of its own below each method in the recipe.",
        )
    (method,) = kinds(methods)
    assert isinstance(method, Method)
    if method.size_setting is None:
        raise RecipeError(
            f"{method.name} has no size setting that a budget could solve",
            where="command line",
            hint="Leave --budget out.",
        )
    return (Budgeted(method=method, budget=budget),)


def _labels(recipe: Recipe) -> int | None:
    """Return how many labels the recipe's data has; None where its rows cannot be read now."""
    from peftcli.data.datasets import load_data
    from peftcli.errors import DataError

    if recipe.data.labels:
        return len(recipe.data.labels)
    try:
        labels: int | None = load_data(recipe.data, recipe.seed).task.network_settings().get("num_labels")
    except DataError:
        return None
    return labels


def _row(methods: tuple[Settings, ...], anatomy: Anatomy, config: dict[str, Any], *, counted: bool) -> dict[str, Any]:
    """Return a method's line in the table of all, where one that has no meaning here says so."""
    try:
        return _count(methods, anatomy, config, counted=counted)
    except MethodError as error:
        own = tuple(m for m in kinds(methods) if isinstance(m, Method))
        nothing: dict[str, Any] = {
            "delta": None,
            "fraction": None,
            "fraction_of_all": None,
            "per_layer": {},
            "per_site": {},
        }
        known = {"base": anatomy.size, "head": anatomy.head_size, "settings": _settings(own), "budgets": []}
        return {"method": _name(own), **known, **nothing, "counted": False, "note": error.problems[0].what}


def _count(written: tuple[Settings, ...], anatomy: Anatomy, config: dict[str, Any], *, counted: bool) -> dict[str, Any]:
    methods, budgets = solve_all(written, anatomy)
    count = closed_form(methods, anatomy)
    if single := untrained(methods):
        count = replace(count, head=single.head_size(anatomy))
    if counted:
        _check_counted(methods, anatomy, config, count.delta)
    return {
        "method": _name(methods),
        "settings": _settings(methods),
        **asdict(count),
        "fraction": count.fraction,
        "fraction_of_all": count.fraction_of_all,
        "counted": counted,
        "budgets": [s.summary for s in budgets],
        "note": "; ".join(s.sentence for s in budgets) or None,
    }


def _check_counted(methods: tuple[Method, ...], anatomy: Anatomy, config: dict[str, Any], expected: int) -> None:
    from peftcli.base.loading import empty_base
    from peftcli.delta.delta import attach

    settings = {"num_labels": anatomy.labels} if anatomy.labels else {}
    network = IMAGES if anatomy.arch == "vision" and anatomy.task else CLASSES[anatomy.task]
    base = empty_base(config, task_class=network, settings=settings)
    delta = attach(tuple(m.packed() for m in methods), base, seed=0)
    if (delta.size, base.size) != (expected, anatomy.size):
        raise CheckFailed(
            f"the closed form says {expected:,} of {anatomy.size:,}, the built network {delta.size:,} of {base.size:,}",
            hint="This is a bug of the method or of the family: please report it.",
        )


def _name(methods: tuple[Method, ...]) -> str:
    return "+".join(m.name for m in methods)


def _settings(methods: tuple[Method, ...]) -> dict[str, Any]:
    described = [{k: v for k, v in describe(m).items() if k != "name"} for m in methods]
    return described[0] if len(described) == 1 else {m.name: d for m, d in zip(methods, described, strict=True)}
