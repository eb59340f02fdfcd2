"""METEOR 1.5: the score of the program's counts everywhere, and the program itself where it is installed."""

import json
from pathlib import Path

import numpy as np
import pytest

from peftcli.data.metrics import check_names
from peftcli.errors import DataError, ResourceError
from peftcli.metrics import meteor_java, registry
from peftcli.metrics.modules import scored

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))["texts"]
# What the program counted for texts and what it made of it: (4 lengths, 4 kinds of match, chunks and matches) -> score.
COUNTED = [
    ([5, 6, 2, 3, 3, 3, 2, 2, *12 * [0], 2, 5, 5], 0.4645695216158345),
    ([6, 6, 3, 3, 3, 3, 3, 3, *12 * [0], 1, 6, 6], 1.0),
    ([1, 2, 0, 1, *16 * [0], 0, 0, 0], 0.0),
    ([0, 3, 0, 1, *16 * [0], 0, 0, 0], 0.0),
]


@pytest.mark.parametrize(("counts", "score"), COUNTED)
def test_counts_are_worth_what_the_program_says(counts, score):
    assert meteor_java._score(np.array(meteor_java._ordered(counts), dtype=float)) == pytest.approx(score, abs=1e-12)


@pytest.mark.skipif(meteor_java.find_program() is None, reason="needs Java and pycocoevalcap")
def test_texts_are_worth_what_the_program_says():
    every = GOLDEN["examples"]
    found = scored("texts", "meteor_1.5", [e["prediction"] for e in every], [e["references"] for e in every])
    values = [found.score(found.rows[one["examples"]]) for one in GOLDEN["sets"]]
    assert values == pytest.approx([one["values"]["meteor_1.5"] for one in GOLDEN["sets"]], abs=1e-4)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A program of that name which answers as ``answer`` says."""

    def answering(script: str) -> None:
        java = tmp_path / "java"
        java.write_text(f"#!/bin/sh\n{script}\n")
        java.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        monkeypatch.setattr(meteor_java, "find_program", lambda: tmp_path / "meteor-1.5.jar")

    return answering


def test_counts_are_summed_and_an_interval_can_be_drawn(program):
    rows = [COUNTED[0][0], COUNTED[2][0]]
    program("".join(f"echo {' '.join(map(str, row))};" for row in rows) + "cat > /dev/null")
    found = scored("texts", "meteor_1.5", ["a", "b"], [["a"], ["c", "d"]])
    assert found.rows.shape == (2, 23)
    assert found.value == pytest.approx(meteor_java._score(np.sum(np.array(rows, dtype=float), axis=0)))
    assert 0 < found.value < COUNTED[0][1]


def test_what_is_asked_has_one_line_for_each_text(program, tmp_path):
    program(f"cat > {tmp_path}/asked; echo {' '.join(map(str, COUNTED[0][0]))}")
    scored("texts", "meteor_1.5", ["The cat,\n sat ||| here"], [["A cat.", "It sat"]])
    assert (tmp_path / "asked").read_text() == "SCORE ||| a cat ||| it sat ||| the cat sat here\n"


def test_no_texts_are_worth_nothing(program):
    program("exit 1")
    assert scored("texts", "meteor_1.5", [], []).value == 0


@pytest.mark.parametrize("script", ["echo too few >&2; exit 3", "cat > /dev/null"])
def test_a_program_that_fails_is_told_of(program, script):
    program(script)
    with pytest.raises(ResourceError, match=r"METEOR 1\.5 failed: (too few|it said nothing)"):
        scored("texts", "meteor_1.5", ["a"], [["a"]])


def test_without_the_program_a_recipe_is_refused_before_anything_is_trained(monkeypatch):
    monkeypatch.setattr(meteor_java, "find_program", lambda: None)
    assert registry.missing("bleu") == ""
    with pytest.raises(DataError, match=r"'meteor_1\.5' needs Java and pycocoevalcap"):
        check_names(["bleu", "meteor_1.5"], registry.NAMES["texts"])
    with pytest.raises(ResourceError, match="needs Java"):
        scored("texts", "meteor_1.5", ["a"], [["a"]])
