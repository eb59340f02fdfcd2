"""Few-shot classification: which rows are shown, in what order, and what becomes of the likelihoods."""

import math
import re

import pytest
import torch
from untrained_runs import ROWS, recipe, run, save_base

from peftcli.data.rows import read_rows
from peftcli.data.tasks import task_from_manifest
from peftcli.data.tasks.prompts import Nearest
from peftcli.delta.registry import find
from peftcli.errors import RecipeError
from peftcli.pipeline.opening import open_target
from peftcli.pipeline.reading import read

METHOD = {"name": "few_shot", "template": "{text} Sentiment {label}", "words": {"neg": "bad", "pos": "good"}}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base"))


def task(finished):
    return task_from_manifest(open_target(finished.folder).artifact.manifest.task)


def shown(finished) -> list[str]:
    return [demonstration.values["text"] for demonstration in task(finished).demonstrations]


def decoded(finished, row: int) -> str:
    """Return the prompt of a validation row as the network reads it."""
    opened = open_target(finished.folder)
    examples = opened.prepared.encode(read_rows(str(finished.folder.parent / "validation.jsonl")))
    return opened.prepared.reader.decode(examples[row].ids["input_ids"])


def test_balanced_demonstrations_have_as_many_of_each_label_and_follow_the_seed(base, tmp_path):
    path = recipe(tmp_path, base, {**METHOD, "shots": 4})
    first = run(path)
    labels = [demonstration.label for demonstration in task(first).demonstrations]
    assert sorted(labels) == ["neg", "neg", "pos", "pos"]
    assert labels[:2] == labels[2:]
    assert shown(run(path, out="again")) == shown(first)
    assert any(shown(run(path, f"seed={seed}", out=f"seed-{seed}")) != shown(first) for seed in (1, 2, 3))
    texts = {row["text"] for row in ROWS}
    assert set(shown(first)) <= texts


def test_a_prompt_is_the_demonstrations_with_their_words_and_then_the_row(base, tmp_path):
    finished = run(recipe(tmp_path, base, {**METHOD, "shots": 2, "demonstrations": "random"}))
    words = {"neg": "bad", "pos": "good"}
    parts = [
        f"{d.values['text']} Sentiment {words[d.label]}"
        for d in task(finished).demonstrations
        if d.values["text"] != ROWS[2]["text"]
    ]
    assert decoded(finished, 0) == " ".join([*parts, f"{ROWS[2]['text']} Sentiment"])


def test_the_nearest_rows_are_shown_the_nearest_last_and_never_the_row_itself(base, tmp_path):
    finished = run(recipe(tmp_path, base, {**METHOD, "shots": 2, "demonstrations": "nearest"}))
    # Every film shares "a film" with "a warm film"; "fine" is in two rows and so weighs less than "dull" or "cold".
    said = re.findall(r"(\w+ \w+ film|so warm|very \w+) Sentiment (good|bad)", decoded(finished, 4))
    assert len(said) == 2
    assert "a warm film Sentiment good" not in decoded(finished, 4)
    assert said[-1] == ("a fine film", "good")
    assert said[0] in {("a dull film", "bad"), ("a cold film", "bad")}


def test_nearness_is_the_cosine_of_tf_idf_vectors():
    texts = ["warm film", "cold film", "slow"]
    weight = {word: math.log(4 / (1 + n)) + 1 for word, n in {"warm": 1, "film": 2, "cold": 1, "slow": 1}.items()}
    vectors = torch.tensor([[weight[w] * (w in text.split()) for w in weight] for text in texts])
    asked = torch.tensor([weight["film"] * 2, weight["cold"]])
    asked = torch.tensor([0.0, asked[0], asked[1], 0.0])
    near = torch.nn.functional.cosine_similarity(vectors, asked[None])
    assert Nearest(texts).order("film film cold unheard") == near.argsort(descending=True, stable=True).tolist()


def test_demonstrations_that_do_not_fit_are_left_out_from_the_front_and_counted(base, tmp_path):
    method = {**METHOD, "shots": 4, "demonstrations": "random"}
    finished = run(recipe(tmp_path, base, method, max_length=12))
    assert finished.report["data"]["encoded"]["validation"]["demonstrations_left_out"] > 0
    assert decoded(finished, 0).endswith(f"{ROWS[2]['text']} Sentiment")
    roomy = run(recipe(tmp_path, base, method), out="roomy")
    assert roomy.report["data"]["encoded"]["validation"]["demonstrations_left_out"] == 0


def test_a_calibration_of_other_demonstrations_for_each_row_is_refused(base, tmp_path):
    path = recipe(tmp_path, base, {**METHOD, "demonstrations": "nearest", "score": "calibrated"})
    with pytest.raises(RecipeError, match="wants the same demonstrations for all rows"):
        read(path)


def test_it_answers_through_a_causal_language_model():
    assert find("few_shot").network_class == "AutoModelForCausalLM"
