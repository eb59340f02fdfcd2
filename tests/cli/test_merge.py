"""From a trained stack to a model that is merged in part, and back to the base: what a person types."""

import json
import shutil

import pytest
from tiny import save_tiny

from peftcli.cli.program import run

WORDS = ["the", "book", "card", "room", "is", "lost", "open", "late"]
RECIPE = """
base: {name: base}
method: [{name: lora, rank: 2}, {name: pfeiffer, bottleneck: 2, start: bert}]
data: {task: classification, train: rows.jsonl, validation: rows.jsonl, max_length: 12}
training: {steps: 3, batch_size: 4, learning_rate: 0.01}
"""


@pytest.fixture
def trained(tmp_path):
    """A run of three steps on a tiny BERT, in the working directory."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    save_tiny(tmp_path / "base", "bert")
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(tmp_path / "base")
    rows = [{"text": " ".join(WORDS[i : i + 3]), "label": f"label {i % 3}"} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    assert run(["train", "recipe.yaml", "--out", "run", "--quiet", "--json"]) == 0
    return tmp_path


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_a_stack_is_merged_in_part_measured_and_unmerged(trained, capsys):
    capsys.readouterr()
    assert run(["merge", "run", "--out", "merged"]) == 4
    assert "Write --partial to fold lora alone" in capsys.readouterr().err
    assert run(["merge", "run", "--out", "merged", "--partial", "--tolerance", "1e-5", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["folded"], said["staying"]) == (["lora"], ["pfeiffer"])
    assert said["check"]["passed"]
    (trained / "merged").rename(
        trained / "moved"
    )  # the delta in it belongs to the weights beside it, wherever they are
    assert run(["verify", "moved", "--base", "moved"]) == 0
    capsys.readouterr()
    scores = []
    for target in ("run", "moved"):
        assert run(["eval", target, "--data", "rows.jsonl", "--no-base", "--json"]) == 0
        scores.append(json.loads(capsys.readouterr().out)["metrics"]["delta"])
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert run(["unmerge", "moved", "--out", "back", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checked"] == "names, shapes and samples"
    base = contents(trained / "base")
    assert contents(trained / "back") == {n: base[n] for n in contents(trained / "back")}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= contents(trained / "back").keys()


def test_the_tables_name_what_went_where(trained, capsys):
    capsys.readouterr()
    assert run(["merge", "run", "--out", "merged", "--partial", "--keep-originals"]) == 0
    written = capsys.readouterr()
    assert "lora" in next(line for line in written.out.splitlines() if line.strip().startswith("folded"))
    assert "pfeiffer, in merged/delta" in written.out
    (trained / "base").rename(trained / "away")
    assert run(["unmerge", "merged", "--out", "base"]) == 0
    written = capsys.readouterr()
    assert "merged/originals" in written.out
    assert "every byte" in written.out
    assert written.err.splitlines()[-1] == "next: peft train recipe.yaml base.name=base"
    assert run(["verify", "run", "--base", "base"]) == 0


def test_without_base_and_originals_the_option_is_named(trained, capsys):
    assert run(["merge", "run", "--out", "merged", "--partial", "--no-check", "--quiet"]) == 0
    (trained / "base").rename(trained / "away")
    assert run(["unmerge", "merged", "--out", "back"]) == 4
    assert "Name where the base model lies with --base" in capsys.readouterr().err
    assert run(["unmerge", "merged", "--out", "back", "--base", "away"]) == 0
    assert (trained / "back" / "model.safetensors").read_bytes() == (
        trained / "away" / "model.safetensors"
    ).read_bytes()


def test_what_was_never_merged_or_is_damaged_ends_with_the_code_of_artifacts(trained, capsys):
    assert run(["unmerge", "run", "--out", "back"]) == 5
    assert "holds no merged model" in capsys.readouterr().err
    assert run(["merge", "run", "--out", "merged", "--partial", "--keep-originals", "--no-check", "--quiet"]) == 0
    path = trained / "merged" / "originals" / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert run(["unmerge", "merged", "--out", "back"]) == 5
    assert "damaged" in capsys.readouterr().err
    assert not (trained / "back").exists()


def test_a_pair_whose_delta_was_lost_is_no_model(trained, capsys):
    assert run(["merge", "run", "--out", "merged", "--partial", "--no-check", "--quiet"]) == 0
    shutil.rmtree(trained / "merged" / "delta")
    assert run(["eval", "merged", "--data", "rows.jsonl"]) == 5
    assert "does not say what task" in capsys.readouterr().err
