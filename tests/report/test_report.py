"""Reading and writing report.json and its views."""

import json

import pytest
import yaml

from peftcli.errors import ArtifactError
from peftcli.report.markdown import to_markdown
from peftcli.report.outline import headline, recipe_text
from peftcli.report.page import to_html
from peftcli.report.report import read_report, write_report


def written(folder, document):
    (folder / "report.json").write_text(json.dumps(document))
    return folder


def complaint(folder):
    with pytest.raises(ArtifactError) as caught:
        read_report(folder)
    return str(caught.value)


def test_a_written_report_is_read_back(tmp_path, made_up):
    write_report(tmp_path, made_up())
    by_folder, by_file = read_report(tmp_path), read_report(tmp_path / "report.json")
    assert by_folder == by_file
    assert by_folder.parameters.delta == 294_912
    assert by_folder.score == 0.9404
    assert by_folder.training.evaluations[7][0] == 1680
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json", "report.md"]


def test_the_views_follow_from_the_file_alone(tmp_path, made_up):
    write_report(tmp_path, made_up())
    again = read_report(tmp_path)
    assert (tmp_path / "report.html").read_text() == to_html(again)
    assert (tmp_path / "report.md").read_text() == to_markdown(again)


def test_the_order_of_keys_changes_no_byte(tmp_path, made_up):
    document = made_up()
    backwards = json.loads(json.dumps(document), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write_report(tmp_path / "a", document)
    write_report(tmp_path / "b", backwards)
    for name in ("report.json", "report.md", "report.html"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_number_that_is_not_finite_becomes_null(tmp_path, made_up):
    document = made_up()
    document["metrics"]["validation"]["perplexity"] = float("inf")
    write_report(tmp_path, document)
    assert json.loads((tmp_path / "report.json").read_text())["metrics"]["validation"]["perplexity"] is None


def test_a_missing_report_is_named(tmp_path):
    assert "holds no report.json" in complaint(tmp_path)
    assert "does not exist" in complaint(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"format": 1', "\ud83d"])
def test_a_torn_report_is_refused(tmp_path, text):
    (tmp_path / "report.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert "report.json: the report is not" in complaint(tmp_path)


@pytest.mark.parametrize("document", [[], 3, {}, {"a": 1}])
def test_another_json_file_is_refused(tmp_path, document):
    assert "not a report" in complaint(written(tmp_path, document))


@pytest.mark.parametrize(
    ("found", "hint"), [(2, "Upgrade"), (0, "again"), ("1", "again"), (True, "again"), ([], "again")]
)
def test_another_format_is_refused(tmp_path, made_up, found, hint):
    message = complaint(written(tmp_path, {**made_up(), "format": found}))
    assert "reads format 1" in message
    assert hint in message


def test_every_wrong_field_is_named_at_once(tmp_path, made_up):
    document = made_up()
    del document["select"]
    document["parameters"]["delta"] = "many"
    document["metrics"]["validation"]["accuracy"] = [1]
    message = complaint(written(tmp_path, document))
    for wrong in ("no 'select'", "'parameters.delta' in the report is 'many'", "'metrics.validation.accuracy'"):
        assert wrong in message


def test_fields_of_a_later_release_are_passed_over(tmp_path, made_up):
    document = made_up()
    document["cost"]["joules"] = 3.5
    assert read_report(written(tmp_path, document)).cost.seconds == 724.9


def test_characters_that_steer_a_terminal_are_replaced(tmp_path, made_up):
    document = made_up(name="a\x1b[31mb\u202ec")
    document["data"]["note"] = "\ud800 alone"
    report = read_report(written(tmp_path, document))
    assert report.name == "a\ufffd[31mb\ufffdc"
    to_html(report).encode()


def test_the_headline_says_the_result_in_numbers(make, made_up):
    assert headline(make(made_up())) == (
        "lora reaches accuracy 0.9404 on 872 validation rows, 0.4312 above the un-tuned base (0.5092), "
        "with 294,912 trainable parameters (and a head of 592,130), 0.238 % of the base."
    )


def test_a_headline_needs_no_base_and_no_score(make, made_up):
    document = made_up()
    document["metrics"]["base"] = None
    assert "un-tuned" not in headline(make(document))
    document["metrics"]["validation"] = None
    assert "no accuracy on validation rows" in headline(make(document))


def test_the_shown_recipe_is_the_recipe(make, made_up):
    document = made_up()
    text = recipe_text(make(document))
    assert yaml.safe_load(text) == document["recipe"]
    assert [line.split(":")[0] for line in text.splitlines() if line[0] not in " -"] == [
        "version",
        "name",
        "base",
        "method",
        "data",
        "training",
        "evaluation",
        "seed",
    ]
