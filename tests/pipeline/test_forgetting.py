"""What a run says of text that the base model knew before."""

import json
import math

import pytest
import torch
from tiny import save_tiny
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from peftcli.data.source_text import SourceText, read_source, windows
from peftcli.errors import DataError, RecipeError
from peftcli.pipeline.progress import Silent
from peftcli.pipeline.reading import read
from peftcli.pipeline.training import TrainOptions, train

WORDS = ["[PAD]", "<s>", "</s>", "[UNK]", "once", "upon", "a", "time", "there", "was", "cat", "dog"]
STORY = "once upon a time there was a cat there was a dog"


def tokenizer() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture
def path(tmp_path):
    tokenizer().save_pretrained(save_tiny(tmp_path / "base", "llama", "causal-lm"))
    (tmp_path / "story.txt").write_text(STORY)
    rows = [{"prompt": "a dog", "completion": "was there"}, {"prompt": "a cat", "completion": "upon time"}] * 2
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    document = {
        "base": {"name": "base"},
        "method": {"name": "full"},
        "data": {"task": "causal-lm", "train": "rows.jsonl", "validation": "rows.jsonl", "max_length": 8},
        "training": {"steps": 3, "batch_size": 4, "learning_rate": 0.05, "warmup": 0},
        "evaluation": {"source": "story.txt", "every": "end", "select": "last"},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(document))
    return tmp_path / "recipe.yaml"


def run(path, *overrides, out="run"):
    return train(read(path, list(overrides)), TrainOptions(out=path.parent / out), Silent())


def test_before_is_the_loss_of_the_bare_base_and_after_that_of_the_delta(path):
    report = run(path).report
    found = report["forgetting"]
    network = AutoModelForCausalLM.from_pretrained(path.parent / "base").eval()
    ids = torch.tensor(tokenizer()(STORY, add_special_tokens=False)["input_ids"])
    total, count = 0.0, 0
    for piece in ids.split(8):
        with torch.no_grad():
            logits = network(piece[None]).logits[0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits, piece[1:], reduction="sum"))
        count += len(piece) - 1
    assert found["before"]["loss"] == pytest.approx(total / count, rel=1e-5)
    assert found["before"]["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)
    assert found["change"]["loss"] == pytest.approx(found["after"]["loss"] - found["before"]["loss"])
    assert abs(found["change"]["loss"]) > 1e-3
    assert found["source"][0]["path"].endswith("story.txt")
    text = (path.parent / "run/report.md").read_text()
    assert "## Forgetting" in text
    assert "Forgetting" in (path.parent / "run/report.html").read_text()


def test_a_recipe_without_source_text_says_nothing_of_it(path):
    assert run(path, "evaluation.source=null").report["forgetting"] is None
    assert "Forgetting" not in (path.parent / "run/report.md").read_text()


def test_virtual_tokens_are_given_once_they_have_vectors(path):
    found = run(path, "method={name: prompt, prompt_length: 2}", "training.learning_rate=0.3").report["forgetting"]
    assert math.isfinite(found["after"]["loss"])
    assert found["after"] != found["before"]


def test_a_network_without_a_language_modelling_head_is_refused(path):
    rows = [{"text": "a dog", "label": "x"}, {"text": "a cat", "label": "y"}]
    (path.parent / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RecipeError, match="has no such head"):
        run(path, "data.task=classification")
    assert not (path.parent / "run").exists()


def test_every_token_but_the_first_of_a_piece_is_predicted_once():
    source = SourceText([(STORY, "story.txt")], [{"path": "story.txt"}])
    pieces = windows(source, tokenizer(), 5)
    assert [example.length for example in pieces] == [5, 5, 2]
    assert [example.ids["labels"].count(-100) for example in pieces] == [1, 1, 1]
    assert [token for example in pieces for token in example.ids["input_ids"]] == tokenizer()(STORY)["input_ids"]


def test_rows_with_a_text_are_read_too_and_what_is_wrong_is_named(tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "a cat"}\n{"text": "a dog"}\n')
    assert [text for text, _ in read_source(str(file)).texts] == ["a cat", "a dog"]
    file.write_text('{"title": "a cat"}\n')
    with pytest.raises(DataError, match="no column is called 'text'"):
        read_source(str(file))
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match="empty"):
        read_source(str(tmp_path / "empty.txt"))
    with pytest.raises(DataError, match="no such file"):
        read_source(str(tmp_path / "none.txt"))
