"""A trained delta answers rows that nobody has answered, and says the same of those that somebody has."""

import json

import pytest
from tiny import save_tiny
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from peftcli.cli.program import run
from peftcli.errors import DataError, RecipeError
from peftcli.pipeline.predicting import PredictionRequest, predict, write_predictions
from peftcli.pipeline.progress import Silent
from peftcli.pipeline.reading import read
from peftcli.pipeline.training import TrainOptions, train

WORDS = ["the", "book", "card", "room", "is", "lost", "open", "late", "new", "my", "when", "where"]
TEXTS = [" ".join(WORDS[i : i + 3]) for i in range(8)]
FAMILIES = {"classification": ("bert", None), "causal-lm": ("llama", "causal-lm"), "seq2seq": ("t5", "seq2seq")}
ROWS = {
    "classification": [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(TEXTS)],
    "causal-lm": [{"prompt": text, "completion": "lost book"} for text in TEXTS],
    "seq2seq": [{"input": text, "target": "lost", "references": ["lost", "late"]} for text in TEXTS],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run of a few steps for every task, and the files of its rows."""
    found = {}
    for task, (family, kind) in FAMILIES.items():
        folder = tmp_path_factory.mktemp(task)
        base = save_tiny(folder / "base", family, kind)
        vocabulary = {word: i for i, word in enumerate(["[PAD]", "<s>", "</s>", "[UNK]", "[CLS]", *WORDS])}
        vocabulary |= {f"w{number}": number for number in range(len(vocabulary), 61)}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "<s>", "eos_token": "</s>"}
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(base)
        rows = folder / "rows.jsonl"
        rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS[task]))
        metrics = (
            "" if task == "classification" else "evaluation: {metrics: [loss, chrf], generation: {max_new_tokens: 5}}"
        )
        (folder / "recipe.yaml").write_text(
            f"base: {{name: {base}}}\nmethod: {{name: lora, rank: 2}}\n"
            f"data: {{task: {task}, train: {rows}, validation: {rows}, max_length: 12}}\n"
            f"training: {{steps: 3, batch_size: 4, learning_rate: 3e-2}}\n{metrics}\n"
        )
        train(read(folder / "recipe.yaml"), TrainOptions(out=folder / "run"), Silent())
        found[task] = folder
    return found


def asked(runs, task, **request):
    return predict(runs[task] / "run", PredictionRequest(**request), Silent())


def stripped(path, rows, keys):
    path.write_text("".join(json.dumps({k: v for k, v in row.items() if k in keys}) + "\n" for row in rows))
    return [str(path)]


def test_labels_come_with_their_probabilities_and_need_no_answer(runs, tmp_path):
    known = asked(runs, "classification")
    unknown = asked(runs, "classification", data=stripped(tmp_path / "new.jsonl", ROWS["classification"], ["text"]))
    assert len(known) == len(unknown) == 8
    for one, other in zip(known, unknown, strict=True):
        assert one["label"] in "ab"
        assert other.keys() == one.keys() - {"label", "loss"}
        assert (other["prediction"], other["text"]) == (one["prediction"], one["text"])
        assert other["probabilities"] == pytest.approx(one["probabilities"])
        assert sum(other["probabilities"].values()) == pytest.approx(1)
        assert max(other["probabilities"], key=other["probabilities"].get) == other["prediction"]


@pytest.mark.parametrize(("task", "question"), [("causal-lm", "prompt"), ("seq2seq", "input")])
def test_texts_are_written_in_the_order_of_the_rows_with_what_is_known(runs, task, question, tmp_path):
    known = asked(runs, task)
    assert [row[question] for row in known] == TEXTS
    assert [row["where"].rpartition(":")[2] for row in known] == [str(n) for n in range(1, 9)]
    wanted = {"causal-lm": ["lost book"], "seq2seq": ["lost", "late"]}[task]
    assert all(row["references"] == wanted for row in known)
    assert all(len(row["prediction"].split()) <= 5 for row in known)
    unknown = asked(runs, task, data=stripped(tmp_path / "new.jsonl", ROWS[task], [question]))
    assert [row["prediction"] for row in unknown] == [row["prediction"] for row in known]
    assert all(row.keys() == {"where", question, "prediction"} for row in unknown)
    alone = asked(runs, task, texts=[TEXTS[2]])
    assert alone == [{"where": "text 1", question: TEXTS[2], "prediction": known[2]["prediction"]}]


def test_the_base_answers_otherwise_and_draws_follow_the_seed(runs):
    said = [row["prediction"] for row in asked(runs, "causal-lm")]
    assert [row["prediction"] for row in asked(runs, "causal-lm", base=True)] != said
    drawn = [asked(runs, "causal-lm", generation={"sample": True, "temperature": 3.0}, seed=s) for s in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert asked(runs, "causal-lm", limit=3) == asked(runs, "causal-lm")[:3]


def test_options_that_do_nothing_are_refused(runs):
    with pytest.raises(RecipeError, match="num_beams means nothing here: classification writes no texts"):
        asked(runs, "classification", generation={"num_beams": 2})
    with pytest.raises(RecipeError, match="temperature means nothing without sample\n  hint: Set sample too"):
        asked(runs, "causal-lm", generation={"temperature": 0.5})


@pytest.mark.parametrize(
    ("task", "what"), [("classification", "'text'"), ("causal-lm", "'prompt'"), ("seq2seq", "'input'")]
)
def test_rows_without_a_question_are_refused(runs, task, what, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"answer": "x"}\n')
    with pytest.raises(DataError, match=f"no column is called {what}"):
        asked(runs, task, data=[str(tmp_path / "bad.jsonl")])


def test_the_command_prints_lines_or_writes_a_file(runs, tmp_path, capsys):
    target = str(runs["seq2seq"] / "run")
    assert run(["predict", target, "--text", "the book", "--beams", "3", "--max-new-tokens", "2", "-q"]) == 0
    (row,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert row.keys() == {"where", "input", "prediction"}
    out = tmp_path / "predictions.jsonl"
    assert run(["predict", target, "--out", str(out), "--limit", "2"]) == 0
    assert [json.loads(line)["input"] for line in out.read_text().splitlines()] == TEXTS[:2]
    assert run(["predict", target, "--out", str(out)]) == 7
    assert "already exists" in capsys.readouterr().err
    assert run(["predict", target, "--text", "a", "--data", "b"]) == 2


def test_lines_are_json_of_any_letters(tmp_path):
    write_predictions(tmp_path / "p.jsonl", [{"text": "größer\n☃"}, {}])
    assert [json.loads(line) for line in (tmp_path / "p.jsonl").read_text("utf-8").splitlines()] == [
        {"text": "größer\n☃"},
        {},
    ]


def test_eval_measures_what_the_recipe_asked_for_or_what_it_is_told(runs, capsys):
    target = str(runs["causal-lm"] / "run")
    assert run(["eval", target, "--json", "-q"]) == 0
    told = json.loads(capsys.readouterr().out)
    report = json.loads((runs["causal-lm"] / "run" / "report.json").read_text())
    for name in ("loss", "chrf"):
        assert told["metrics"]["delta"][name] == pytest.approx(report["metrics"]["validation"][name])
        assert told["metrics"]["base"][name] == pytest.approx(report["metrics"]["base"][name])
    assert run(["eval", target, "--metrics", "rouge1", "--no-base", "--json", "-q"]) == 0
    assert set(json.loads(capsys.readouterr().out)["metrics"]["delta"]) == {"rouge1", "n"}
    assert run(["eval", target, "--metrics", "rogue1"]) == 3
    assert "Did you mean 'rouge1'" in capsys.readouterr().err


def test_in_training_no_text_is_written_but_to_select_by(runs, tmp_path):
    recipe = runs["seq2seq"] / "recipe.yaml"
    asked_for = ["evaluation.metrics=[loss,chrf,rouge1]", "evaluation.select=chrf", "training.steps=2"]
    report = train(read(recipe, asked_for), TrainOptions(out=tmp_path / "run"), Silent()).report
    assert report["select"] == "chrf"
    assert [set(scores) for _, scores in report["training"]["evaluations"]] == [{"loss", "chrf", "n"}]
    assert {"loss", "chrf", "rouge1", "n"} == set(report["metrics"]["validation"])
    assert set(report["signatures"]) == {"loss", "chrf", "rouge1"}
