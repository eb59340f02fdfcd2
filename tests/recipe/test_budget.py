"""A budget in the place of a size setting, as the recipe language reads it."""

from __future__ import annotations

import pytest

from peftcli.errors import RecipeError
from peftcli.recipe.budget import Budgeted, allowed, is_budget, kinds
from peftcli.recipe.read import resolved, to_yaml

GOOD = "base: {name: demo:minilm}\ndata: {task: classification, train: demo:intents}\n"


def with_method(text: str) -> str:
    return f"{GOOD}method: {text}\n"


def test_a_method_with_a_budget_waits_for_its_size(read):
    (method,) = read(with_method("{name: lora, budget: 0.1%, alpha: 4}")).method
    assert isinstance(method, Budgeted)
    assert method.budget == "0.1%"
    assert method.method.alpha == 4
    assert kinds((method,)) == (method.method,)


def test_a_resolved_recipe_names_the_budget_and_no_size(read):
    recipe = read(with_method("{name: lora, budget: 300k}"))
    assert resolved(recipe)["method"]["budget"] == "300k"
    assert "rank" not in resolved(recipe)["method"]
    assert read(to_yaml(recipe)) == recipe


def test_null_leaves_the_budget_or_the_size_out(read):
    assert read(with_method("{name: lora, budget: null, rank: 2}")).method[0].rank == 2
    assert read(with_method("{name: lora, rank: 2}"), "method.rank=null", "method.budget=1%").method[0].budget == "1%"
    assert read(with_method("{name: lora, budget: 1%}"), "method.budget=null", "method.rank=3").method[0].rank == 3


def test_members_of_a_stack_have_budgets_of_their_own(read):
    stack = read(with_method("[{name: lora, budget: 1%}, {name: lora, rank: 2}, {name: lora, budget: 5000}]")).method
    assert [getattr(part, "budget", None) for part in stack] == ["1%", None, 5000]


def test_a_budget_on_the_command_line_against_a_size_in_the_file_is_named_there(read):
    with pytest.raises(RecipeError) as caught:
        read(with_method("{name: lora, rank: 2}"), "method.budget=1%")
    assert caught.value.problems[0].where == "command line"


def test_other_settings_hold_whatever_the_default_size(read):
    """Its default rank of 8 is no multiple of 5, but some rank is."""
    (method,) = read(with_method("{name: lora, parts: 5, budget: 1%}")).method
    assert method.method.parts == 5
    with pytest.raises(RecipeError, match="8, which 5 parts do not divide"):
        read(with_method("{name: lora, parts: 5}"))


def test_a_wrong_budget_and_a_wrong_setting_are_named_together(read):
    with pytest.raises(RecipeError) as caught:
        read(with_method("{name: lora, budget: much, alpha: -1, rnak: 3}"))
    assert [p.what.split(",")[0] for p in caught.value.problems] == [
        "'much' is no budget",
        "method.alpha is -1",
        "method has no setting 'rnak'",
    ]


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ("0.1%", 124_439),
        (" 0.1 % ", 124_439),
        ("100%", 124_439_808),
        ("300k", 300_000),
        ("2.3k", 2_300),  # which a float takes for 2,299.9999999999995
        ("18.9M", 18_900_000),
        ("1b", 1_000_000_000),
        ("512", 512),
        (18_874_368, 18_874_368),
    ],
)
def test_a_budget_is_a_share_of_the_base_or_a_number(budget, expected):
    assert is_budget(budget)
    assert allowed(budget, 124_439_808) == expected


@pytest.mark.parametrize("budget", ["", "%", "k", "-1%", "0", "0.0%", "1e5", "1%%", "1 k k", "1,000", "٣%", 0, -1, 1.5])
def test_anything_else_is_none(budget):
    assert not is_budget(budget)
