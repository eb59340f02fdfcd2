"""Zero-shot classification: log p of every label's word, computed by hand from the bare network."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from untrained_runs import ROWS, recipe, run, save_base

from peftcli.errors import ArtifactError, DataError, MethodError, RecipeError
from peftcli.pipeline.evaluation import EvaluationRequest, evaluate
from peftcli.pipeline.opening import open_target
from peftcli.pipeline.progress import Silent

TEMPLATE = "Review : {text} Sentiment : {label}"
METHOD = {"name": "zero_shot", "template": TEMPLATE, "words": {"neg": "very bad", "pos": "good"}}
LABELS, WORDS = ("neg", "pos"), ("very bad", "good")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base"))


@torch.no_grad()
def by_hand(base, prompt: str) -> torch.Tensor:
    """Return log p(word | prompt) of both words, token by token. Shapes: (2)."""
    network, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    before = tokenizer(prompt)["input_ids"]
    found = []
    for word in WORDS:
        ids, total = list(before), 0.0
        for token in tokenizer(word)["input_ids"]:
            total += float(network(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[token])
            ids.append(token)
        found.append(total)
    return torch.tensor(found)


def losses(scores: torch.Tensor, rows) -> list[float]:
    return [-float(s.log_softmax(-1)[LABELS.index(row["label"])]) for s, row in zip(scores, rows, strict=True)]


def prompts(rows) -> list[str]:
    return [f"Review : {row['text']} Sentiment :" for row in rows]


def measured(finished) -> list[float]:
    """Return the losses of the validation rows, one by one, from the run opened again."""
    out = finished.folder.parent / "said.jsonl"
    evaluate(finished.folder, EvaluationRequest(predictions=out), Silent())
    return [json.loads(line)["loss"] for line in out.read_text().splitlines()]


def test_a_label_scores_the_summed_likelihood_of_its_word(base, tmp_path):
    finished = run(recipe(tmp_path, base, METHOD))
    scores = torch.stack([by_hand(base, prompt) for prompt in prompts(ROWS[2:])])
    assert measured(finished) == pytest.approx(losses(scores, ROWS[2:]), rel=1e-4)
    assert finished.report["parameters"]["delta"] == finished.report["parameters"]["head"] == 0


def test_length_divides_by_the_tokens_of_the_word(base, tmp_path):
    finished = run(recipe(tmp_path, base, {**METHOD, "score": "length"}))
    scores = torch.stack([by_hand(base, prompt) for prompt in prompts(ROWS[2:])]) / torch.tensor([2.0, 1.0])
    assert measured(finished) == pytest.approx(losses(scores, ROWS[2:]), rel=1e-4)


def test_calibrated_divides_by_what_is_said_of_inputs_that_say_nothing(base, tmp_path):
    finished = run(recipe(tmp_path, base, {**METHOD, "score": "calibrated", "content_free": ["NA", "so"]}))
    free = [by_hand(base, f"Review : {text} Sentiment :").softmax(-1) for text in ("NA", "so")]
    scores = torch.stack([by_hand(base, prompt) for prompt in prompts(ROWS[2:])]).softmax(-1) / torch.stack(free).mean(
        0
    )
    assert measured(finished) == pytest.approx(losses(scores.log(), ROWS[2:]), rel=1e-4)


def test_training_rows_choose_among_templates_and_the_report_shows_all(base, tmp_path):
    templates = [TEMPLATE, "so {text} a {label}", "{text} {label}"]
    finished = run(recipe(tmp_path, base, {**METHOD, "template": templates, "selection_rows": 7}))
    trials = finished.report["details"]["validation"]["templates"]
    assert [trial["template"] for trial in trials] == templates
    assert {trial["n"] for trial in trials} == {7}
    best = max(trials, key=lambda trial: trial["accuracy"])
    assert finished.report["details"]["validation"]["prompt"]["template"] == best["template"]
    alone = run(recipe(tmp_path, base, {**METHOD, "template": best["template"]}), out="alone")
    assert alone.report["metrics"]["validation"] == finished.report["metrics"]["validation"]


def test_nothing_of_the_validation_rows_is_used(base, tmp_path):
    method = {**METHOD, "template": [TEMPLATE, "{text} {label}"], "score": "calibrated", "content_free": ["NA"]}
    path = recipe(tmp_path, base, method)
    one = open_target(run(path).folder).artifact.manifest.task
    other = [{"text": "a cold film", "label": "pos"}, {"text": "very warm", "label": "neg"}]
    (tmp_path / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in other))
    assert open_target(run(path, out="other").folder).artifact.manifest.task == one


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"template": "{text} {label} !"}, "end with"),
        ({"template": "{sentence} {label}"}, "no column of the task"),
        ({"template": "Sentiment {label}"}, "must hold a column"),
        ({"words": {"positive": "good"}}, "no label"),
        ({"words": {"pos": "neg"}}, "the same word"),
    ],
)
def test_a_prompt_that_cannot_be_meant_is_refused(base, tmp_path, change, message):
    with pytest.raises(RecipeError, match=message):
        run(recipe(tmp_path, base, {**METHOD, **change}))


def test_words_that_the_tokenizer_cannot_tell_apart_are_refused(base, tmp_path):
    with pytest.raises(DataError, match="are the same tokens"):
        run(recipe(tmp_path, base, {**METHOD, "words": {"neg": "terrible", "pos": "marvellous"}}))


def test_it_refuses_what_is_no_choice_among_labels(base, tmp_path):
    rows = [{"text": row["text"], "label": float(n)} for n, row in enumerate(ROWS)]
    with pytest.raises(MethodError, match="chooses among the labels"):
        run(recipe(tmp_path, base, METHOD, rows, task="regression"))


def test_a_damaged_prompt_is_refused(base, tmp_path):
    from peftcli.data.tasks import task_from_manifest

    manifest = open_target(run(recipe(tmp_path, base, METHOD)).folder).artifact.manifest.task
    assert task_from_manifest(manifest).words == WORDS
    for change in ({"words": ["one"]}, {"score": "best"}, {"template": "{label}"}, {"demonstrations": [1]}):
        with pytest.raises(ArtifactError):
            task_from_manifest({**manifest, **change})
