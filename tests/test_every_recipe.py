"""Every shipped recipe trains for a few steps on a tiny base, and stands by the rules of recipes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from tiny import save_tiny

from peftcli.delta.method import Method
from peftcli.delta.registry import all_methods
from peftcli.pipeline.progress import Silent
from peftcli.pipeline.reading import read
from peftcli.pipeline.training import TrainOptions, train
from peftcli.recipe.schema import schema

FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
FAMILIES = {
    "classification": ("bert", None),
    "span-qa": ("bert", None),
    "causal-lm": ("llama", "causal-lm"),
    "multiple-choice": ("llama", "causal-lm"),
    "seq2seq": ("t5", "seq2seq"),
}
IMAGES = "image-classification"
PROCESSOR = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}}
WORDS = ["the", "book", "card", "room", "is", "lost", "open", "late", "new", "my", "when", "where"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    """Tiny bases with a tokenizer of a few words, by task."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    found = {}
    for task, (family, kind) in FAMILIES.items():
        folder = save_tiny(tmp_path_factory.mktemp(task), family, kind)
        vocabulary = {word: i for i, word in enumerate(["[PAD]", "<s>", "</s>", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "<s>", "eos_token": "</s>"}
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
        found[task] = folder
    found[IMAGES] = save_tiny(tmp_path_factory.mktemp(IMAGES), "vit")
    (found[IMAGES] / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return found


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> dict[str, Path]:
    """A few rows for every task."""
    folder = tmp_path_factory.mktemp("rows")
    texts = [" ".join(WORDS[i : i + 4]) for i in range(8)]
    forms = {
        "classification": [{"text": t, "label": WORDS[i % 3]} for i, t in enumerate(texts)],
        "causal-lm": [{"prompt": t, "completion": "lost book"} for t in texts],
        "seq2seq": [{"input": t, "target": "lost book", "article": t, "summary": "lost book"} for t in texts],
        "span-qa": [
            {"question": WORDS[i], "context": t, "answers": {"text": [WORDS[i]], "answer_start": [0]}}
            for i, t in enumerate(texts)
        ],
        "multiple-choice": [{"prompt": t, "choices": ["lost book", "my card"], "answer": "A"} for t in texts],
    }
    found = {}
    for task, lines in forms.items():
        found[task] = folder / f"{task}.jsonl"
        found[task].write_text("".join(json.dumps(line) + "\n" for line in lines))
    found[IMAGES] = folder / "images"
    for number in range(8):
        (found[IMAGES] / WORDS[number % 3]).mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 9), 30 * number).save(found[IMAGES] / WORDS[number % 3] / f"{number}.png")
    return found


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_trains_on_a_tiny_base(path, bases, rows, tmp_path):
    # Copied, so that the runs which a recipe builds on lie beside the folder that it stands in.
    shutil.copytree(FOLDER, tmp_path / "recipes")
    for name, *overrides in _commands(path):
        recipe = tmp_path / name
        plan = read(recipe, overrides)
        out = tmp_path / "runs" / str(plan.name)
        finished = train(read(recipe, [*overrides, *_small(plan, bases, rows)]), TrainOptions(out=out), Silent())
    if all(method.trains for method in plan.method):
        assert finished.report["training"]["steps"] == 4
        assert finished.report["proofs"]["frozen_tensors_moved"] == 0
    else:
        assert finished.report["training"]["steps"] == finished.report["parameters"]["delta"] == 0
    assert (out / "delta/delta.safetensors").exists()
    assert (out / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def _commands(path) -> list[list[str]]:
    """Return what a recipe's head says to train, each a recipe and its overrides: itself last."""
    said = [line.split()[3:] for line in path.read_text().splitlines() if line.startswith("# peft train ")]
    return [*said[1:], said[0]]


def _small(plan, bases, rows) -> list[str]:
    """Make a run small."""
    task = plan.data.task
    (network,) = {getattr(method, "network_class", None) for method in plan.method}
    return [
        f"base.name={bases['causal-lm' if network == 'AutoModelForCausalLM' else _base_for(task)]}",
        *_rows(plan, None if plan.data.multi_label else rows.get(task)),
        "training.epochs=null",
        "training.steps=4",
        "training.batch_size=4",
        "training.warmup=0",
        *_sizes(plan.method),
    ]


def _base_for(task: str) -> str:
    """Return the task whose base serves this one too: an encoder that reads texts."""
    return task if task in (*FAMILIES, IMAGES) else "classification"


def _rows(plan, made: Path | None) -> list[str]:
    """Keep the rows that a recipe brings along; give a few to one that names files of its user."""
    if made is None or (isinstance(plan.data.train, str) and Path(plan.data.train).is_file()):
        return ["data.max_length=40"]
    longest = [] if plan.data.task == IMAGES else ["data.max_length=12"]
    return [f"data.train={made}", f"data.validation={made}", *longest]


def _sizes(methods) -> list[str]:
    """Make every method small enough for a tiny base."""
    prefixes = ["method"] if len(methods) == 1 else [f"method.{i}" for i in range(len(methods))]
    found = []
    for prefix, method in zip(prefixes, methods, strict=True):
        assert isinstance(method, Method)
        setting = method.card.size_setting
        if setting:
            found.append(f"{prefix}.{setting}={1 if setting == 'count_layers' else 2 * method.size_step}")
    return found


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_says_what_it_does_and_how_to_run_it(path):
    header, what, how = path.read_text(encoding="utf-8").splitlines()[:3]
    assert header == "# yaml-language-server: $schema=recipe.schema.json"
    assert what.startswith("# ")
    assert what.endswith(".")
    assert how == f"# peft train recipes/{path.name}"


def test_there_is_a_recipe_for_every_method():
    shown = {method.name for path in RECIPES for method in read(path).method}
    assert shown == set(all_methods())


def test_the_shipped_schema_is_the_one_that_peft_schema_prints():
    shipped = json.loads((FOLDER / "recipe.schema.json").read_text(encoding="utf-8"))
    assert shipped == schema(all_methods())
