"""A method that another package brings by entry point works in every command, as if it were ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tiny import save_tiny

from peftcli.delta.registry import GROUP, names

REPOSITORY = Path(__file__).parents[1]
PACKAGE = Path(__file__).parent / "example_package"
WORDS = ["[PAD]", "[UNK]", "the", "book", "card", "room", "is", "lost", "open", "late"]
SIZE = 2 * 2 * (16 + 16)  # W_q and W_v of two layers, 16 wide


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """What ``pip install --target`` makes of the example package."""
    folder = tmp_path_factory.mktemp("site")
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shutil.copytree(PACKAGE / "peftcli_rank_one", folder / "peftcli_rank_one")
    info = folder / f"peftcli_rank_one-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"[{group}]" for group in project["entry-points"]]
    lines += [f"{name} = {module}" for name, module in project["entry-points"][GROUP].items()]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny base with a tokenizer, a few rows, and a recipe for the method of the example package."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = tmp_path_factory.mktemp("work")
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(save_tiny(made / "base", "bert"))
    rows = [{"text": " ".join(WORDS[2 + i : 6 + i]), "label": f"label {i % 2}"} for i in range(4)] * 4
    (made / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "version": 1,
        "base": {"name": "./base"},
        "method": {"name": "rank_one", "layers": "all"},
        "data": {"task": "classification", "train": "rows.jsonl", "validation": "rows.jsonl", "max_length": 8},
        "training": {"steps": 4, "batch_size": 4, "warmup": 0},
    }
    (made / "recipe.yaml").write_text(json.dumps(recipe))
    return made


@pytest.fixture(scope="module")
def peft(installed, folder):
    """Run a command in that folder, with the package installed, and return what it prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), str(REPOSITORY)])}

    def run(*words: str) -> str:
        command = [sys.executable, "-m", "peftcli", *words]
        done = subprocess.run(
            command, cwd=folder, env=environment | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def run_folder(peft) -> str:
    peft("train", "recipe.yaml", "--out", "run", "--quiet")
    return "run"


def test_peftcli_itself_does_not_know_it():
    assert "rank_one" not in names()
    sources = [p for p in (REPOSITORY / "peftcli").rglob("*.py") if "rank_one" in p.read_text(encoding="utf-8")]
    assert all("peftcli_rank_one" not in p.read_text(encoding="utf-8") for p in sources)


def test_it_is_listed_and_explained(peft):
    assert "rank_one" in peft("methods")
    explained = peft("methods", "rank_one")
    assert "Rank-one update: W' = W + u v" in " ".join(explained.split())
    assert "target_modules" in explained


def test_its_settings_are_in_the_schema(peft):
    assert "rank_one" in peft("schema")


def test_its_recipe_is_checked_and_its_mistakes_are_named(peft, folder):
    peft("check", "recipe.yaml")
    wrong = (folder / "recipe.yaml").read_text().replace('"layers"', '"layesr"')
    (folder / "wrong.yaml").write_text(wrong)
    with pytest.raises(AssertionError, match="Did you mean 'layers'"):
        peft("check", "wrong.yaml")


def test_it_is_counted_before_training(peft):
    assert json.loads(peft("params", "recipe.yaml", "--json"))["delta"] == SIZE


def test_it_trains(run_folder, folder):
    report = json.loads((folder / run_folder / "report.json").read_text())
    assert report["parameters"]["delta"] == SIZE
    assert report["training"]["steps"] == 4


def test_it_is_measured_beside_the_base(peft, run_folder):
    measured = json.loads(peft("eval", run_folder, "--json", "--quiet"))
    assert {"base", "delta"} <= measured["metrics"].keys()


def test_it_merges_into_a_plain_model(peft, run_folder, folder):
    from transformers import AutoModelForSequenceClassification

    peft("merge", run_folder, "--out", "merged", "--quiet")
    network = AutoModelForSequenceClassification.from_pretrained(folder / "merged")
    assert not any(name.endswith((".u", ".v")) for name, _ in network.named_parameters())
