"""``peft export`` and ``peft import`` on the command line: what others load, and theirs here."""

import json
import sys
from pathlib import Path

import pytest

from peftcli.cli.program import run

sys.path.insert(0, str(Path(__file__).parents[1] / "artifact"))  # adapted_models.py

LORA = {"name": "lora", "rank": 2, "target_modules": ["W_q", "W_v"]}


@pytest.fixture
def trained(tmp_path):
    from adapted_models import adapt, save_base

    base = save_base(tmp_path / "base", "llama", "AutoModelForCausalLM")
    adapt(base, tmp_path / "run", LORA, "causal-lm")
    return base


def test_a_delta_goes_out_and_comes_back(trained, capsys):
    assert run(["export", "run", "--out", "adapter"]) == 0
    said = capsys.readouterr()
    assert "LORA, the same numbers" in said.out
    assert said.err.splitlines()[-1] == "next: hf upload adapter adapter"
    assert run(["import", "adapter", "--base", str(trained), "--out", "back", "--json"]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert (result["method"], result["settings"]["rank"], result["task"]) == ("lora", 2, "causal-lm")
    assert said.err.splitlines()[-1] == "next: peft eval back --data FILE"
    assert run(["verify", "back", "--base", str(trained)]) == 0
    assert run(["merge", "back", "--out", "merged", "--no-check"]) == 0
    assert run(["export", "back", "--out", "again"]) == 0


def test_the_portable_form_ends_with_how_to_serve_it(trained, capsys):
    assert run(["export", "run", "--out", "served", "--to", "portable"]) == 0
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("next: vllm serve ")
    assert last.endswith("--enable-lora --lora-modules served=served --max-lora-rank 8")


def test_nothing_is_overwritten_unasked(trained, capsys):
    assert run(["export", "run", "--out", "adapter", "--quiet"]) == 0
    assert run(["export", "run", "--out", "adapter"]) == 7
    assert run(["export", "run", "--out", "adapter", "--overwrite"]) == 0
    assert run(["import", "adapter", "--base", str(trained), "--out", "adapter"]) == 7


def test_a_source_that_is_not_there_or_wrong_columns_are_said(trained, capsys):
    assert run(["import", "nowhere", "--base", str(trained), "--out", "out", "--task", "causal-lm"]) == 5
    assert "nowhere: no such file" in capsys.readouterr().err
    assert run(["import", "nowhere", "--base", str(trained), "--out", "out", "--columns", "text"]) == 2
    assert "--columns is 'text'" in capsys.readouterr().err
    assert run(["export", "nowhere", "--out", "out"]) == 5
