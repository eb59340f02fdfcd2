"""Budgets: for every method with a size setting, the size that is found is the largest that fits."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError
from tiny import FAMILIES, tasks

from peftcli.base.anatomy import Anatomy
from peftcli.delta.budget import solve, solve_all
from peftcli.delta.entries import SparseMethod
from peftcli.delta.method import Method
from peftcli.delta.registry import all_methods, read_methods
from peftcli.errors import MethodError
from peftcli.methods.intrinsic_dimension import IntrinsicDimension
from peftcli.methods.lnlora import Lnlora
from peftcli.methods.lora import Lora
from peftcli.recipe.budget import allowed

SIZED = {name: method for name, method in all_methods().items() if method.size_setting}
SHAPES = {name: Anatomy.of(FAMILIES[name], task=tasks(name)[-1], labels=3) for name in FAMILIES}
SHAPES |= {f"full-size {name}": Anatomy.of({"model_type": name}) for name in ("bert", "gpt2", "llama", "t5", "vit")}
BUDGETS = ("0.02%", "0.1%", "1%", "7%", "40%", "300%", 1, 100, "1k", "300k", "18.9M")
GPT3 = {"model_type": "gpt2", "n_embd": 12288, "n_layer": 96, "n_head": 96, "n_positions": 2048, "vocab_size": 50257}


def at(method: Method, size: object) -> Method:
    return type(method).model_validate({**dict(method), str(method.size_setting): size})


def refused(method: Method, anatomy: Anatomy, size: object) -> bool:
    try:
        at(method, size).count(anatomy)
    except (MethodError, ValidationError):
        return True
    return False


def steps_of(method: Method, size: float) -> int:
    """Return the steps that a size is away from nothing."""
    return round(size / float(method.size_at(1)))


def assert_largest(method: Method, anatomy: Anatomy, budget: str | int) -> None:
    wanted, why = allowed(budget, anatomy.size), ""
    try:
        solved = solve(method, anatomy, budget)
    except MethodError as error:
        why = error.problems[0].what
    if found := re.search(r"^a budget of ([\d,]+) is too small: .* at least ([\d,]+), with \w+ ([\d,]+)", why):
        given, least, size = (int(text.replace(",", "")) for text in found.groups())
        assert given == wanted < least == at(method, size).count(anatomy)
        before = method.size_at(steps_of(method, size) - 1)
        assert refused(method, anatomy, before), "there is a smaller size"
    elif why:
        assert all(refused(method, anatomy, method.size_at(steps)) for steps in (1, 2, 3, 5, 8, 64, 1000))
    if why:
        return
    assert solved.achieved == solved.method.count(anatomy) <= wanted
    assert solved.method == at(method, solved.value)
    more = method.size_at(steps_of(method, solved.value) + 1)
    if solved.limit is None:
        assert at(method, more).count(anatomy) > wanted
    else:
        assert refused(method, anatomy, more)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SIZED)
def test_the_largest_size_within_a_budget_is_found(name, shape):
    for budget in BUDGETS:
        assert_largest(SIZED[name](), SHAPES[shape], budget)


# Settings under which small sizes are refused, or the count is no straight line.
FORMS = [
    ("lnlora", {"form": "bottleneck"}),
    ("lnlora", {"form": "plus_ln"}),
    ("intrinsic_dimension", {"form": "said"}),
    ("intrinsic_dimension", {"form": "did", "projection": "dense"}),
    ("fact", {"form": "tk"}),
    ("compacter", {"terms": 8, "rank": 2}),
    ("phm_adapter", {"terms": 2}),
    ("adapter_drop", {"adapter": "houlsby", "dropped": 1}),
    ("houlsby", {"train_norms": False, "layers": "0-1"}),
    ("prefix", {"reparameterise": False, "layers": "top:1"}),
    ("lt_sft", {"freeze_norms": False}),
]


@pytest.mark.parametrize(("name", "settings"), FORMS, ids=lambda value: str(value))
def test_it_is_found_under_other_settings_too(name, settings):
    for shape in ("bert", "llama", "t5", "full-size bert", "full-size gpt2"):
        (part,) = read_methods({"name": name, "budget": "1%", **settings})
        for budget in BUDGETS:
            assert_largest(part.method, SHAPES[shape], budget)


def test_sizes_that_are_refused_for_being_small_are_passed_over():
    """SAID spends one number on each of 72 matrices, so that 73 is its least dimension; a norm needs three numbers."""
    bert = SHAPES["full-size bert"]
    assert solve(IntrinsicDimension(form="said"), bert, 73).value == 73
    with pytest.raises(MethodError, match=r"72 is too small: intrinsic_dimension on bert trains at least 73, with dim"):
        solve(IntrinsicDimension(form="said"), bert, 72)
    with pytest.raises(MethodError, match="trains at least 110,736, with rank 3"):
        solve(Lnlora(form="bottleneck"), bert, 100_000)


def test_a_share_is_solved_to_the_last_entry():
    for name, method in SIZED.items():
        if issubclass(method, SparseMethod):
            solved = solve(method(), SHAPES["full-size bert"], "0.5%")
            assert solved.achieved == solved.wanted, name


def test_a_share_that_is_a_float_is_solved_to_the_last_number():
    class Kept(Method):
        """A method whose size is a share."""

        kept: float = 0.5

        def sizes(self, anatomy):
            if not 0 < self.kept <= 1:
                raise MethodError("there is no such share")
            return {"x": int(anatomy.size * self.kept)}

    Kept.size_setting = "kept"
    bert = SHAPES["full-size bert"]
    solved = solve(Kept(), bert, 123_456)
    assert solved.achieved == 123_456
    assert type(solved.value) is float
    assert solve(Kept(), bert, "300%").achieved == bert.size
    assert solve(Kept(), bert, "300%").limit == "there is no such share"


@pytest.mark.parametrize(
    ("target_modules", "rank"), [(("W_q",), 8), (("W_q", "W_v"), 4), (("W_q", "W_k", "W_v", "W_o"), 2)]
)
def test_the_targets_of_the_lora_paper_compare_at_one_budget(target_modules, rank):
    """GPT-3 at 18,874,368 parameters, which the paper prints as 18M."""
    gpt3 = Anatomy.of(GPT3, task="causal-lm")
    for budget in (18_874_368, "18.9M"):
        solved = solve(Lora(target_modules=target_modules), gpt3, budget)
        assert (solved.value, solved.achieved) == (rank, 18_874_368)


def test_every_member_of_a_stack_is_solved_by_itself():
    bert = SHAPES["full-size bert"]
    written = read_methods(
        [{"name": "lora", "budget": "0.1%"}, {"name": "ia3"}, {"name": "pfeiffer", "budget": "300k"}]
    )
    methods, solved = solve_all(written, bert)
    assert [m.name for m in methods] == ["lora", "ia3", "pfeiffer"]
    assert [(s.method, s.asked) for s in solved] == [(methods[0], "0.1%"), (methods[2], "300k")]
    assert methods[0].rank == 2


def test_a_method_that_means_nothing_on_the_base_says_why():
    with pytest.raises(MethodError, match="prefix has no way into the attention of bloom"):
        solve_all(read_methods({"name": "prefix", "budget": "1%"}), SHAPES["bloom"])


def test_what_was_solved_reads_as_a_sentence():
    bert = SHAPES["full-size bert"]
    assert solve(Lora(), bert, "0.1%").sentence == "0.1% allows 109,482: lora with rank 2 trains 73,728"
    limited = solve(Lora(), bert, "90%").sentence
    assert limited.startswith("90% allows 98,534,016: lora with rank 768 trains 28,311,552; more is refused: ")
