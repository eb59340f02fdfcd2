"""The pages and the Markdown: what they show, and that nothing in a report can break out of them."""

import re
from html.parser import HTMLParser

import pytest

from peftcli.report.comparison import side_by_side
from peftcli.report.markdown import to_markdown
from peftcli.report.page import comparison_to_html, to_html, write_comparison

HOSTILE = "<script>alert(1)</script> \"'&| ``` $\\frac{$ ]]> --> #0072b2"
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Outline(HTMLParser):
    """Collects tags and text, and fails on a tag that is closed out of order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text, self.attributes = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parsed(page):
    outline = Outline()
    outline.feed(page)
    outline.close()
    assert not outline.open
    return outline


def hostile(value):
    """Return ``value`` with every name in it turned against the page."""
    if isinstance(value, str):
        return HOSTILE + value
    if isinstance(value, list):
        return [hostile(v) for v in value]
    if isinstance(value, dict):
        return {k: hostile(v) for k, v in value.items()}
    return value


@pytest.fixture(name="hostile_report")
def hostile_report_fixture(make, made_up):
    document = {k: v if k == "select" else hostile(v) for k, v in made_up().items()}
    document["parameters"]["per_site"] = {HOSTILE: 1, HOSTILE + "2": 2}
    document["parameters"]["per_layer"] = {HOSTILE: 1, "0": 2}
    document["metrics"]["validation"][HOSTILE] = 0.5
    document["data"] = {HOSTILE: {HOSTILE: [HOSTILE]}}
    return make(document)


FACTS = """
0.9404, +0.4312, 294,912, 0.238 %, 0.237 %, 124,055,040, 592,130, 872, 12 min 05 s, 2.1 GB, 3.6 MB, 67,349, W_q,
starts at base, dddddddddddd, target_modules, 2.13.0, peft eval ., 0.9227 to 0.9543,
e2da8e2f811d1448a5b465c236feacd80ffbac7b
"""


@pytest.mark.parametrize("fact", re.split(r",\s+", FACTS.strip()))
def test_both_views_show_every_fact(make, made_up, fact):
    report = make(made_up())
    assert fact in " ".join(parsed(to_html(report)).text)
    assert fact in to_markdown(report)


def test_both_views_have_the_same_sections(make, made_up):
    report = make(made_up())
    titles = re.findall("<h2>(.*?)</h2>", to_html(report))
    assert titles == re.findall("^## (.*)$", to_markdown(report), re.MULTILINE)
    assert titles == [
        "Metrics",
        "Parameters",
        "Training",
        "Cost",
        "Proofs",
        "Data",
        "Recipe",
        "Environment",
        "What to type next",
    ]


def test_the_splits_stand_side_by_side(make, made_up):
    text = to_markdown(make(made_up()))
    assert "| data | train | validation |" in text
    assert "| duplicates | 38 | 0 |" in text
    assert "| also in train | - | 0 |" in text
    assert "| label positive | 37,569 (55.8 %) | 444 (50.9 %) |" in text
    assert "| positive | 37,569 | 444 |" in text


def test_data_of_any_other_shape_is_shown_too(make, made_up):
    document = made_up()
    document["data"] = {"rows": 5, "deep": {"train": [{"a": 1}], "b": None}}
    assert "| deep / train 1 / a | 1 |" in to_markdown(make(document))


def test_a_page_fetches_nothing_and_runs_nothing(make, made_up):
    outline = parsed(to_html(make(made_up())))
    assert not {"script", "link", "img", "iframe", "object"} & set(outline.tags)
    links = [v for k, v in outline.attributes if k in ("href", "src", "xlink:href")]
    assert all(link.startswith("#") for link in links)
    assert not [k for k, _ in outline.attributes if k.startswith("on")]


def test_no_name_breaks_out_of_a_page(hostile_report):
    page = to_html(hostile_report)
    outline = parsed(page)
    assert "script" not in outline.tags
    assert "<script>alert(1)</script>" in "".join(outline.text)
    parsed(comparison_to_html(side_by_side([hostile_report])))


def test_a_label_that_reads_like_a_colour_stays_what_it_is(hostile_report):
    shown = "".join(parsed(comparison_to_html(side_by_side([hostile_report]))).text)
    assert "#0072b2" in shown
    assert "var(--blue" not in shown.split("</style>")[-1].replace("--blue:", "")


def test_no_name_breaks_out_of_the_markdown(hostile_report):
    text = to_markdown(hostile_report)
    prose, fenced = [], []
    fence = None
    for line in text.splitlines():
        mark = re.match("`{3,}", line)
        if mark and fence is None:
            fence = mark.group()
        elif fence and line == fence:
            fence = None
        else:
            (fenced if fence else prose).append(line)
    assert fence is None
    assert not [line for line in prose if "<" in line]
    assert any("alert(1)" in line for line in fenced)
    for table in re.split("\n\n", "\n".join(prose)):
        rows = [line for line in table.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) <= 1


def test_ids_are_unique_on_a_page(make, made_up):
    ids = [v for k, v in parsed(to_html(make(made_up()))).attributes if k == "id"]
    clips = [i for i in ids if i.startswith(("p", "m")) and len(i) > 10]
    rest = [i for i in ids if i not in clips]
    assert len(rest) == len(set(rest))


def test_a_report_without_anything_optional_is_shown(make, made_up):
    document = made_up()
    document["metrics"] = {"validation": None}
    document["training"], document["cost"] = {}, {}
    for key in ("data", "proofs", "environment", "resumed"):
        del document[key]
    document["parameters"] |= {"per_layer": {}, "per_site": {}, "delta": 0, "fraction": 0.0, "fraction_of_all": 0.0}
    document["base"] = {"name": "somewhere"}
    page = to_html(make(document))
    assert "somewhere" in page
    assert "None" not in page
    assert parsed(page).attributes
    to_markdown(make(document))
    parsed(comparison_to_html(side_by_side([make(document)])))


def test_a_comparison_page_shows_table_plot_and_warnings(tmp_path, make, made_up):
    comparison = side_by_side([make(made_up("lora")), make(made_up("bitfit", validation_sha="e" * 64))])
    write_comparison(tmp_path / "comparison.html", comparison)
    text = " ".join(parsed((tmp_path / "comparison.html").read_text()).text)
    for shown in (
        "2 runs by accuracy",
        "lora",
        "102,912",
        "0.0830 %",
        "★",
        "different validation data",
        "un-tuned base",
    ):
        assert shown in text


def test_the_same_comparison_gives_the_same_bytes(make, made_up, all_methods):
    def page():
        return comparison_to_html(side_by_side([make(made_up(method)) for method in all_methods]))

    assert page() == page()
