"""``peft params``: what a method would train, from a config alone and, if asked, from a network without weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peftcli.base.anatomy import Anatomy
from peftcli.base.source import read_config
from peftcli.delta import budget
from peftcli.delta.count import closed_form
from peftcli.delta.method import Method
from peftcli.delta.registry import describe, find, names, read_methods
from peftcli.errors import CheckFailed, MethodError, RecipeError
from peftcli.pipeline.reading import method_of, read
from peftcli.recipe.recipe import Recipe

ALL = "all"
RECIPES = (".yaml", ".yml")
TASK_CLASSES = {
    "": "AutoModel",
    "classification": "AutoModelForSequenceClassification",
    "causal-lm": "AutoModelForCausalLM",
}
TASKS = {"decoder": "causal-lm"}  # what a bare model is counted for; every other kind as a classifier


def params(
    target: str, overrides: Sequence[str], method: str | None, counted: bool, wanted: str | None
) -> list[dict[str, Any]]:
    """Count the parameters that one method, or every method, trains on a model.

    Args:
        target: A recipe, or a model: its folder, its config.json, or a hub id that was fetched before.
        overrides: ``method.rank=4``; with a recipe, any of its keys.
        method: The name of a method instead of the recipe's, or "all".
        counted: Also build the network without weights, attach, and count tensors.
        wanted: A budget that the size setting is solved for.

    Raises:
        PeftcliError: The target or a setting is wrong, or a method has no meaning on this model.
    """
    config, task, labels, methods = _read(target, list(overrides), method)
    anatomy = Anatomy.of(config, task=task, labels=labels)
    if method != ALL:
        return [_count(methods, anatomy, config, counted=counted, wanted=wanted)]
    return [_row((find(name)(),), anatomy, config, counted=counted, wanted=wanted) for name in names()]


def _read(
    target: str, overrides: list[str], method: str | None
) -> tuple[dict[str, Any], str, int | None, tuple[Method, ...]]:
    if Path(target).suffix in RECIPES:
        recipe = read(
            Path(target), [f"method={{name: {method}}}", *overrides] if method not in (None, ALL) else overrides
        )
        return read_config(recipe.base.name), recipe.data.task, _labels(recipe), read_methods(recipe.method)
    config = read_config(target)
    if method is None:
        raise RecipeError("no method is named", where="command line", hint="Write --method NAME or --method all.")
    task = TASKS.get(Anatomy.of(config).arch, "classification")
    return config, task, None, () if method == ALL else method_of(method, overrides)


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


def _row(methods: tuple[Method, ...], anatomy: Anatomy, config: dict[str, Any], **asked: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a method's line in the table of all, where one that has no meaning here says so."""
    try:
        return _count(methods, anatomy, config, **asked)
    except MethodError as error:
        nothing: dict[str, Any] = {
            "delta": None,
            "fraction": None,
            "fraction_of_all": None,
            "per_layer": {},
            "per_site": {},
        }
        own = {"base": anatomy.size, "head": anatomy.head_size, "settings": _settings(methods), "target": None}
        return {"method": _name(methods), **own, **nothing, "counted": False, "note": error.problems[0].what}


def _count(
    methods: tuple[Method, ...], anatomy: Anatomy, config: dict[str, Any], *, counted: bool, wanted: str | None
) -> dict[str, Any]:
    solved = None
    if wanted is not None:
        if len(methods) != 1:
            raise MethodError("a budget is solved for one method, not for a stack")
        solved = budget.solve(methods[0], anatomy, budget.parse(wanted, anatomy))
        methods = (solved.method,)
    count = closed_form(methods, anatomy)
    if counted:
        _check_counted(methods, anatomy, config, count.delta)
    return {
        "method": _name(methods),
        "settings": _settings(methods),
        **asdict(count),
        "fraction": count.fraction,
        "fraction_of_all": count.fraction_of_all,
        "counted": counted,
        "target": solved and {"setting": solved.setting, "value": solved.value, "wanted": solved.wanted},
        "note": f"{solved.setting}={solved.value}" if solved else None,
    }


def _check_counted(methods: tuple[Method, ...], anatomy: Anatomy, config: dict[str, Any], expected: int) -> None:
    from peftcli.base.loading import empty_base
    from peftcli.delta.delta import attach

    settings = {"num_labels": anatomy.labels} if anatomy.labels else {}
    base = empty_base(config, task_class=TASK_CLASSES[anatomy.task or ""], settings=settings)
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
