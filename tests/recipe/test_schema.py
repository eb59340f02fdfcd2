import json
import re

import pytest

from peftcli.errors import RecipeError
from peftcli.recipe.document import Document
from peftcli.recipe.read import resolved
from peftcli.recipe.schema import schema
from peftcli.recipe.template import template

EXAMPLE = """\
# LoRA on SST-2: W_q and W_v of every layer move by a product of rank 8.
# peft train recipes/sst2-lora.yaml
version: 1
name: sst2-lora
base:
  name: FacebookAI/roberta-base
  revision: null
  dtype: auto
method:
  name: lora
  rank: 8
  alpha: 16
  target_modules: [W_q, W_v]
  layers: all
data:
  task: classification
  train: data/train.jsonl
  validation: data/dev.jsonl
  test: null
  columns: {text: sentence, label: label}
  max_length: 128
training:
  epochs: 3
  batch_size: 32
  learning_rate: null
  schedule: linear
  warmup: 6%
  weight_decay: 0.01
  precision: auto
evaluation:
  every: epoch
  metrics: null
  select: accuracy
seed: 0
"""


@pytest.fixture
def accepts(method_settings):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema(method_settings))
    validator = jsonschema.Draft202012Validator(schema(method_settings))
    return lambda text: validator.is_valid(Document.parse(text.encode(), "r.yaml").data)


def test_the_schema_and_the_reader_agree_on_good_recipes(accepts, read):
    for text in (EXAMPLE, template(), json.dumps(resolved(read(EXAMPLE))), json.dumps(resolved(read(template())))):
        assert accepts(text)
        read(text)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rank: 8", "rnak: 8"),
        ("rank: 8", "rank: 0"),
        ("epochs: 3", "epocs: 3"),
        ("name: lora", "name: lroa"),
        ("seed: 0", "sede: 0"),
        ("task: classification", "task: art"),
        ("  train: data/train.jsonl\n", ""),
        ("[W_q, W_v]", "[]"),
        ("rank: 8", "rank: 8\n  budget: 0.1%"),
        ("rank: 8", "budget: a tenth"),
        ("rank: 8", "budget: 0%"),
        ("rank: 8", "budget: 0"),
        ("rank: 8", "budget: 1.5"),
    ],
)
def test_the_schema_and_the_reader_agree_on_bad_recipes(accepts, read, old, new):
    assert old in EXAMPLE
    assert not accepts(EXAMPLE.replace(old, new))
    with pytest.raises(RecipeError):
        read(EXAMPLE.replace(old, new))


@pytest.mark.parametrize(
    "size", ["budget: 0.1%", "budget: 300k", "budget: 300000", "budget: null", "rank: null\n  budget: 1.5M"]
)
def test_the_schema_and_the_reader_agree_on_budgets(accepts, read, size):
    text = EXAMPLE.replace("rank: 8", size)
    assert accepts(text)
    recipe = read(text)
    assert accepts(json.dumps(resolved(recipe)))
    assert read(json.dumps(resolved(recipe))) == recipe


def test_a_stack_fits_the_schema(accepts):
    one = EXAMPLE[EXAMPLE.index("method:") : EXAMPLE.index("data:")]
    assert accepts(EXAMPLE.replace(one, "method: [{name: lora, rank: 2}, {name: ladder, steps: [{width: 1}]}]\n"))
    assert not accepts(EXAMPLE.replace(one, "method: []\n"))
    assert not accepts(EXAMPLE.replace(one, "method: [{name: ladder, steps: [{widht: 1}]}]\n"))


def test_the_schema_describes_every_key(method_settings):
    whole = schema(method_settings)
    described = {name: d for name, d in whole["$defs"].items() if name.endswith("Section")}
    assert len(described) == 5
    for name, definition in described.items():
        for key, field in definition["properties"].items():
            assert field.get("description"), f"{name}.{key}"
    assert whole["$defs"]["method lora"]["properties"]["rank"]["description"] == "Of the update."
    assert whole["$defs"]["method lora"]["properties"]["name"]["const"] == "lora"
    assert whole["properties"]["method"]["description"]


def test_every_mapping_of_the_schema_is_closed(method_settings):
    whole = schema(method_settings)
    for name, definition in {"recipe": whole, **whole["$defs"]}.items():
        assert name == "method" or definition["additionalProperties"] is False, name


def test_every_reference_of_the_schema_has_a_target(method_settings):
    whole = schema(method_settings)
    targets = set(re.findall(r'"\$ref": "#/\$defs/([^"]+)"', json.dumps(whole)))
    assert targets <= set(whole["$defs"])


def test_the_template_runs_as_it_is(read):
    recipe = read(template())
    assert recipe.base.name == "demo:minilm"
    assert recipe.data.train == "demo:intents"
    assert (recipe.method[0].rank, recipe.method[0].alpha) == (8, 16)
    assert recipe.method[0].target_modules == ("W_q", "W_v")


def test_the_keys_that_the_template_comments_out_exist(read):
    told, count = re.subn(r"^  # (\w+: [^#]+)#.*$", r"  \1", template(), flags=re.M)
    assert count
    assert read(told) != read(template())


def test_the_template_starts_with_what_it_does_and_how_to_run_it(read):
    first, second, *_ = template().split("\n")
    assert first.startswith("# ")
    assert second.startswith("# peft train ")
    assert "# yaml-language-server: $schema=recipe.schema.json\n" in template("recipe.schema.json")
    assert read(template("x.json")) == read(template())
    assert max(map(len, template().split("\n"))) <= 120
