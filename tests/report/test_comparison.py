"""Several runs side by side: what becomes one row, what is on the front, what is warned of."""

import json
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftcli.errors import ArtifactError, RecipeError
from peftcli.report.comparison import SORTABLE, compare, side_by_side
from peftcli.report.entries import pareto_front

POINTS = st.lists(
    st.tuples(st.integers(0, 6), st.one_of(st.none(), st.just(math.nan), st.integers(0, 6).map(float))), max_size=12
)


@pytest.fixture(name="runs")
def runs_fixture(make, made_up):
    """Return a function: (method, seed, shift) triples -> reports."""
    return lambda *triples: [make(made_up(m, seed=seed, shift=shift)) for m, seed, shift in triples]


def row(comparison, label):
    return next(r for r in comparison.rows if r.label == label)


def test_runs_that_differ_in_their_seed_alone_are_one_row(runs):
    comparison = side_by_side(runs(("lora", 0, 0.0), ("lora", 1, 0.01), ("lora", 2, -0.004), ("bitfit", 0, 0.0)))
    lora = row(comparison, "lora")
    scores = [0.9404, 0.9504, 0.9364]
    assert lora.score == pytest.approx(statistics.fmean(scores))
    assert lora.deviation == pytest.approx(statistics.stdev(scores))
    assert lora.seeds == (0, 1, 2)
    assert row(comparison, "bitfit").deviation is None


def test_one_run_has_no_deviation(runs):
    assert side_by_side(runs(("lora", 0, 0.0))).rows[0].deviation is None


def test_runs_stay_apart_when_asked(runs):
    comparison = side_by_side(runs(("lora", 0, 0.0), ("lora", 1, 0.01)), aggregate=False)
    assert {r.label for r in comparison.rows if not r.untuned} == {"lora (sst2-lora-0)", "lora (sst2-lora-1)"}


def test_the_same_seed_again_is_not_another_sample(runs):
    comparison = side_by_side(runs(("lora", 0, 0.0), ("lora", 0, 0.0), ("lora", 1, 0.01)))
    assert row(comparison, "lora").seeds == (0, 1)
    assert any("repeat another's recipe and seed" in w for w in comparison.warnings)


def test_another_setting_is_another_row_named_by_it(make, made_up):
    four = made_up("lora", name="four")
    four["recipe"]["method"]["rank"] = 4
    comparison = side_by_side([make(made_up("lora")), make(four)])
    assert {r.label for r in comparison.rows if not r.untuned} == {"lora rank=8", "lora rank=4"}


def test_the_parts_of_a_stack_name_their_settings(make, made_up):
    def stack(rank):
        document = made_up("lora", name=f"stack-{rank}")
        document["method"] = "lora+bitfit"
        document["recipe"]["method"] = [{"name": "lora", "rank": rank}, {"name": "bitfit"}]
        return make(document)

    comparison = side_by_side([stack(4), stack(8)])
    assert {r.label for r in comparison.rows if not r.untuned} == {"lora+bitfit lora.rank=4", "lora+bitfit lora.rank=8"}


def test_the_base_is_one_row_per_base(make, made_up):
    other = made_up("bitfit")
    other["base"] |= {"name": "another-base", "fingerprint": "f" * 64}
    other["metrics"]["base"]["accuracy"] = 0.4
    comparison = side_by_side([make(made_up("lora")), make(made_up("ia3")), make(other)])
    untuned = {r.label: r.score for r in comparison.rows if r.untuned}
    assert untuned == {"un-tuned FacebookAI/roberta-base": 0.5092, "un-tuned another-base": 0.4}
    assert row(comparison, "bitfit on another-base").delta == 102_912
    assert "Runs start from different base models." in comparison.warnings


def test_a_base_whose_head_is_drawn_with_the_seed_varies(make, made_up):
    documents = [made_up("lora", seed=seed) for seed in (0, 1)]
    documents[1]["metrics"]["base"]["accuracy"] = 0.4908
    base = row(side_by_side(list(map(make, documents))), "un-tuned base")
    assert base.score == pytest.approx(0.5)
    assert base.deviation == pytest.approx(statistics.stdev([0.5092, 0.4908]))


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (lambda d: d["data"]["files"]["validation"][0].update(sha256="e" * 64), "different validation data"),
        (lambda d: d["metrics"]["validation"].update(n=100), "different validation data"),
        (lambda d: d["data"]["files"]["train"][0].update(sha256="e" * 64), "trained on different data"),
        (lambda d: d["recipe"]["data"].update(limit=100), "trained on different data"),
        (lambda d: d["base"].update(fingerprint="e" * 64), "different base models"),
        (lambda d: d.update(select="f1"), "different metrics (accuracy, f1); the score is accuracy"),
        (lambda d: d["training"].update(seed=7), "different seeds"),
        (lambda d: d["environment"].update(device="cuda"), "different machines"),
        (lambda d: d["metrics"]["validation"].pop("accuracy"), "without a score by accuracy: sst2-bitfit-0"),
    ],
)  # fmt: skip
def test_what_makes_runs_incomparable_is_said(make, made_up, change, warning):
    document = made_up("bitfit")
    assert side_by_side([make(made_up("lora")), make(document)]).warnings == ()
    change(document)
    assert any(warning in w for w in side_by_side([make(made_up("lora")), make(document)]).warnings)


def test_where_the_files_lie_does_not_matter(make, made_up):
    moved = made_up("bitfit")
    moved["recipe"]["data"] |= {"train": "/elsewhere/train.jsonl", "validation": "/elsewhere/dev.jsonl"}
    moved["data"]["files"]["validation"][0]["path"] = "/elsewhere/dev.jsonl"
    assert side_by_side([make(made_up("lora")), make(moved)]).warnings == ()


def test_a_share_of_train_is_other_rows_under_another_seed(make, made_up):
    documents = [made_up("lora", seed=0), made_up("bitfit", seed=1)]
    for document in documents:
        document["recipe"]["data"]["validation"] = "10%"
    assert "Runs were measured on different validation data." in side_by_side(list(map(make, documents))).warnings


def test_rows_are_sorted_by_score_or_by_a_column(make, made_up, all_methods):
    reports = [make(made_up(method)) for method in all_methods]
    by_score = [r.score for r in side_by_side(reports).rows]
    assert by_score == sorted(by_score, reverse=True)
    assert side_by_side(reports, "accuracy").rows == side_by_side(reports).rows
    for column in SORTABLE[1:]:
        if column != "score":
            values = [getattr(r, column) for r in side_by_side(reports, column).rows]
            assert values[-1] is None  # the base has none
            assert values[:-1] == sorted(values[:-1])
    assert [r.label for r in side_by_side(reports, "method").rows][:-1] == sorted(all_methods)


def test_lower_may_be_better(make, made_up):
    documents = [made_up("lora"), made_up("bitfit")]
    for document in documents:
        document |= {"select": "loss", "higher_is_better": False}
    documents[1]["metrics"]["validation"]["loss"] = 0.3
    comparison = side_by_side(list(map(make, documents)))
    assert [r.label for r in comparison.rows] == ["lora", "bitfit", "un-tuned base"]
    assert [r.on_front for r in comparison.rows] == [True, True, False]


def test_an_unknown_column_is_refused_with_a_suggestion(runs):
    with pytest.raises(RecipeError, match="no column 'second'\n  hint: Did you mean 'seconds'"):
        side_by_side(runs(("lora", 0, 0.0)), "second")


@given(POINTS, st.booleans())
def test_the_front_is_what_nothing_beats(points, higher):
    def beats(one, two):
        better = one[1] >= two[1] if higher else one[1] <= two[1]
        return one[0] <= two[0] and better and one != two

    marks = pareto_front(points, higher)
    known = [p for p in points if p[1] is not None and not math.isnan(p[1])]
    front = [p for p, mark in zip(points, marks, strict=True) if mark]
    assert all(p in known for p in front)
    for point, mark in zip(points, marks, strict=True):
        if point in known:
            assert mark != any(beats(other, point) for other in known)
            assert mark or any(beats(other, point) for other in front)  # what is off the front is beaten by the front
    assert bool(front) == bool(known)


def test_every_broken_report_is_named_at_once(tmp_path, made_up):
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "report.json").write_text(json.dumps(made_up()))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError) as caught:
        compare([tmp_path / "empty", tmp_path / "good", tmp_path / "gone"])
    assert len(caught.value.problems) == 2


def test_a_run_that_is_named_twice_counts_once(tmp_path, made_up):
    (tmp_path / "report.json").write_text(json.dumps(made_up()))
    assert len(compare([tmp_path, tmp_path / "report.json"]).reports) == 1


def test_there_must_be_a_run():
    with pytest.raises(RecipeError, match="no run to compare"):
        compare([])


def test_the_text_is_aligned_and_complete(runs):
    comparison = side_by_side(runs(("lora", 0, 0.0), ("lora", 1, 0.01), ("prompt", 0, 0.0)))
    header, *rows = comparison.to_text().splitlines()
    assert header.split()[:5] == ["method", "|Φ|", "|Φ|/|Θ|", "stored", "accuracy"]
    lora = next(line for line in rows if line.startswith("lora"))
    assert lora.split()[:10] == ["lora", "294,912", "0.238", "%", "3.6", "MB", "0.9454", "±", "0.0071", "2"]
    assert {row.index(" %") for row in rows[:2]} == {header.index("|Φ|/|Θ|") + 5}
    assert any(line.startswith("warning: Rows were run with different seeds") for line in rows)


def test_the_markdown_has_as_many_cells_in_every_row(runs):
    table = side_by_side(runs(("lora", 0, 0.0), ("prompt", 0, 0.0))).to_markdown().split("\n\n")[0]
    assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1


def test_the_json_can_be_written_strictly(make, made_up):
    document = made_up()
    document["metrics"]["validation"]["accuracy"] = float("inf")
    found = json.loads(json.dumps(side_by_side([make(document)]).to_json(), allow_nan=False))
    assert found["metric"] == "accuracy"
    assert {r["label"]: r["score"] for r in found["rows"]} == {"lora": None, "un-tuned base": 0.5092}


def test_comparing_needs_no_drawing(tmp_path, made_up):
    import subprocess
    import sys

    (tmp_path / "report.json").write_text(json.dumps(made_up()))
    program = (
        "import sys; from pathlib import Path; from peftcli.report.comparison import compare; "
        f"compare([Path({str(tmp_path)!r})]).to_text(); import peftcli.report.report; "
        "print([m for m in ('torch', 'numpy', 'matplotlib', 'jinja2') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout == "[]\n"
