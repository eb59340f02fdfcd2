"""`peft data` shows rows as the network will read them, without the network."""

import json
import sys

import pytest
from tiny import save_tiny
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from peftcli.cli import console
from peftcli.cli.program import run

WORDS = ["[PAD]", "<s>", "</s>", "[UNK]", "the", "book", "is", "late", "open", "room", "user", "assistant"]
TEMPLATE = (
    "<s>{% for m in messages %} {{ m['role'] }} {{ m['content'] }} </s>{% endfor %}"
    "{% if add_generation_prompt %} assistant{% endif %}"
)


def base(folder, family, task):
    """Return a base model without its weights: rows are read with the rest."""
    save_tiny(folder, family, task)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    return folder


def recipe(tmp_path, rows, task, **data):
    """Write a recipe and its rows; return its path."""
    family = ("bert", None) if task == "classification" else ("llama", "causal-lm")
    (tmp_path / "base").mkdir()
    base(tmp_path / "base", *family)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    section = {"task": task, "train": "rows.jsonl", "max_length": 20, **data}
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps({"base": {"name": "./base"}, "method": {"name": "lora"}, "data": section}))
    return file


@pytest.fixture
def pairs(tmp_path):
    rows = [{"prompt": "the book", "completion": f"is {word}"} for word in ("late", "open", "late")]
    return recipe(tmp_path, rows, "causal-lm", validation="rows.jsonl")


def test_the_learned_tokens_stand_in_brackets_and_special_ones_are_seen(pairs, capsys):
    assert run(["data", str(pairs), "--rows", "1"]) == 0
    written = capsys.readouterr()
    header, text, _ = written.out.split("\n", 2)
    assert header.endswith("rows.jsonl:1: 5 tokens")
    assert text == "the book⟦ is late </s>⟧"
    assert written.err.splitlines()[-1] == f"next: peft train {pairs}"


def test_json_says_the_same_with_all_counts(pairs, capsys):
    assert run(["data", str(pairs), "--json", "--rows", "2", "--split", "validation", "data.max_length=4"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["stretches"] for row in found["rows"]] == [
        [{"text": "book", "supervised": False}, {"text": f" is {word} </s>", "supervised": True}]
        for word in ("late", "open")
    ]
    counts = {"rows": 3, "truncated": 3, "dropped": 0, "tokens": 12, "supervised": 9, "longest": 4}
    assert found["data"]["encoded"] == {"train": counts, "validation": counts}
    assert found["data"]["lengths"]["train"] == {"p50": 4, "p90": 4, "p99": 4, "max": 4}
    assert found["told"] == (
        "train 3, validation 3; tokens per row: 50 % within 4, 90 % within 4, 99 % within 4, longest 4, "
        "75 % of them supervised, truncated 6, duplicates in train 2, also in train 3"
    )


def test_a_classification_shows_its_label_and_the_balance(tmp_path, capsys):
    rows = [{"text": "the book is late", "label": "fee"}, {"text": "the room", "label": "room"}] * 2
    file = recipe(tmp_path, rows, "classification")
    assert run(["data", str(file), "--rows", "1"]) == 0
    out = capsys.readouterr().out
    assert "rows.jsonl:1: 4 tokens, label fee\nthe book is late\n" in out
    assert "label fee  2 (50.0 %)" in " ".join(out.split()).replace("label fee ", "label fee  ")
    assert out.splitlines()[-1].endswith("; fee 50 %, room 50 %, duplicates in train 2")


def test_a_chat_without_a_template_says_what_to_write(tmp_path, capsys):
    messages = [{"role": "user", "content": "the book"}, {"role": "assistant", "content": "is late"}]
    file = recipe(tmp_path, [{"messages": messages}], "causal-lm")
    assert run(["data", str(file)]) == 2
    assert "Write data.chat_template: chatml" in capsys.readouterr().err
    (tmp_path / "own.jinja").write_text(TEMPLATE)
    assert run(["data", str(file), "data.chat_template=own.jinja"]) == 0
    assert "<s> user the book </s> assistant⟦ is late </s>⟧\n" in capsys.readouterr().out


def test_a_split_that_is_not_there_is_named(pairs, capsys):
    assert run(["data", str(pairs), "--split", "test"]) == 2
    assert "the recipe has no test data" in capsys.readouterr().err


def test_on_a_terminal_what_is_learned_is_underlined(monkeypatch):
    stretches = [("the ", False), ("book\x1b", True)]
    assert console.marked(stretches) == "the ⟦book\\x1b⟧"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert console.marked(stretches) == "the \x1b[4;32mbook\\x1b\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert console.marked(stretches) == "the ⟦book\\x1b⟧"
