"""What is written reads as what it was, and nothing that is read can make the reader fail in another way."""

import json
from copy import deepcopy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peftcli.errors import RecipeError
from peftcli.recipe.read import resolved, to_yaml
from peftcli.recipe.recipe import Recipe
from peftcli.recipe.scalars import check_text

TRICKY = ["no", "1e4", "5e-4", "010", "0o10", "12:30", "~", "null", "", " a", "a ", "# x", "a: b", "1_0", "2024-01-01"]
TRICKY += [
    "- a",
    "'",
    '"',
    "\\",
    "a\nb",
    "\n",
    "\ta",
    "{{x}}",
    "%",
    "@",
    "`",
    "!x",
    "&x",
    "*x",
    "|",
    ">",
    "?",
    "<<",
    "=",
]
TRICKY += [
    "0x1F",
    ".5",
    "1.",
    "+1",
    ".inf",
    ".NaN",
    "true",
    "Yes",
    "---",
    "...",
    "é",
    "日本",
    "👍",
    "[a]",
    "a, b",
    "a #b",
]


def _may_be_written(text: str) -> bool:
    try:
        check_text(text, "")
    except RecipeError:
        return False
    return "${env:" not in text


texts = st.one_of(st.sampled_from(TRICKY), st.text(max_size=12)).filter(_may_be_written)
paths = texts.filter(lambda t: t and not t.startswith("~") and not {"\n", "\t"} & set(t))
numbers = st.floats(min_value=1e-300, max_value=1e300)
lora = st.fixed_dictionaries(
    {"name": st.just("lora")},
    optional={
        "alpha": numbers,
        "target_modules": st.just("all-linear") | st.lists(texts, min_size=1, max_size=3),
        "layers": texts | st.lists(st.integers(-5, 5), max_size=3),
    },
)
sizes = st.fixed_dictionaries({}, optional={"rank": st.integers(1, 10**30)}) | st.fixed_dictionaries(
    {"budget": st.sampled_from(["0.1%", "12 %", "300k", "1.5M", "2b"]) | st.integers(1, 10**30)},
    optional={"rank": st.none(), "parts": st.integers(1, 9)},
)
ladder = st.fixed_dictionaries({"name": st.just("ladder"), "steps": st.lists(st.just({"width": 2}), max_size=2)})
method = st.builds(lambda settings, size: settings | size, lora, sizes) | ladder
valid = st.fixed_dictionaries(
    {
        "base": st.fixed_dictionaries({"name": paths}, optional={"revision": st.none() | texts}),
        "method": method | st.lists(method, min_size=1, max_size=3),
        "data": st.fixed_dictionaries(
            {
                "task": st.sampled_from(["classification", "causal-lm"]),
                "train": paths | st.lists(paths, min_size=1, max_size=3),
            },
            optional={
                "columns": st.dictionaries(texts, texts, max_size=3),
                "labels": st.none() | st.lists(texts, max_size=4),
                "validation": st.just("12.5%") | paths.filter(lambda t: "%" not in t),
            },
        ),
    },
    optional={
        "training": st.fixed_dictionaries(
            {}, optional={"epochs": numbers, "learning_rate": st.floats(1e-12, 9.0), "warmup": st.integers(0, 99)}
        ),
        "evaluation": st.fixed_dictionaries(
            {}, optional={"every": st.integers(1, 9), "metrics": st.lists(texts, max_size=2)}
        ),
        "seed": st.integers(0, 2**32 - 1),
        "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True),
    },
).filter(lambda r: not any({"\n", "\t"} & set(m) or m[:1] == "~" for m in r.get("evaluation", {}).get("metrics", [])))

GOOD = """\
# A comment.
version: 1
base: {name: demo:minilm}
data:
  task: classification
  train: ["a b.csv", 'c.csv']
  columns: {text: sentence}
method:
- name: lora
  rank: 8
  target_modules: [W_q, W_v]
training:
  learning_rate: 5e-4
  warmup: 6%
seed: 0
"""


def read_or_refused(read, *given):
    problems = []
    try:
        assert isinstance(read(*given), Recipe)
    except RecipeError as error:
        problems = error.problems or [None]
    assert all(problem and problem.what for problem in problems)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(valid)
def test_a_resolved_recipe_reads_as_the_same_recipe(read, recipe):
    first = read(json.dumps(recipe, ensure_ascii=False))  # JSON is YAML, and needs no writer of ours
    assert read(to_yaml(first)) == first
    assert read(json.dumps(resolved(first), ensure_ascii=False)) == first


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.text(alphabet=st.characters() | st.sampled_from(list(" \n:-[]{}#&*!|>'\"%@`,?\\~0123456789abn.e")), max_size=60)
)
def test_any_text_is_read_or_refused(read, text):
    read_or_refused(read, text)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(read, content):
    read_or_refused(read, content)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_recipe_with_a_few_changed_characters_is_read_or_refused(read, data):
    text = GOOD
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        stop = min(len(text), start + data.draw(st.integers(0, 5)))
        text = (
            text[:start]
            + data.draw(st.text(alphabet=" \n\t:-[]{}#&*!|>'\"%@`,?~01e.x\u202e", max_size=4))
            + text[stop:]
        )
    read_or_refused(read, text)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "rank", "str", "0"]) | texts, inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(valid, st.data())
def test_a_recipe_with_a_changed_value_is_read_or_refused_with_places(read, recipe, data):
    recipe = deepcopy(recipe)
    section = data.draw(st.sampled_from(sorted(recipe)))
    holder = recipe[section] if isinstance(recipe[section], dict) and data.draw(st.booleans()) else recipe
    key = section if holder is recipe else data.draw(st.sampled_from(sorted(holder) or ["x"]) | texts)
    holder[key] = data.draw(anything)
    written = json.dumps(recipe, ensure_ascii=False).replace("Infinity", ".inf").replace("NaN", ".nan")
    problems = []
    try:
        read(written)
    except RecipeError as error:
        problems = error.problems
    assert all(problem.where and "r.yaml:1" in problem.where for problem in problems)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.text(max_size=20), st.sampled_from(["", "seed=", "training.epochs=", "method.rank=", "data.train=", "method="])
)
def test_any_override_is_taken_or_refused(read, text, key):
    read_or_refused(read, GOOD, key + text)


@pytest.mark.parametrize("text", [t for t in TRICKY if _may_be_written(t)])
def test_text_that_looks_like_something_else_is_quoted(read, text):
    first = read(GOOD.replace("columns: {text: sentence}", f"labels: [{json.dumps(text, ensure_ascii=False)}]"))
    assert first.data.labels == [text]
    assert read(to_yaml(first)) == first


def test_a_branch_called_none_is_quoted(read):
    first = read(GOOD.replace("name: demo:minilm", "name: demo:minilm, revision: 'None'"))
    assert first.base.revision == "None"
    assert read(to_yaml(first)) == first


def test_a_resolved_recipe_names_every_default(read):
    plain = resolved(read(GOOD))
    assert plain["training"]["batch_size"] == 32
    assert plain["method"]["alpha"] == 16.0
    assert list(plain)[:4] == ["version", "name", "base", "method"]
    json.dumps(plain, allow_nan=False)


def test_a_text_of_several_lines_is_written_in_one(read):
    assert '["a\\nb"]' in to_yaml(read(GOOD.replace("columns: {text: sentence}", 'labels: ["a\\nb"]')))
