"""A run on a quantised base: trained, resumed, measured, merged."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny import save_tiny
from typer.testing import CliRunner

from peftcli.cli.program import app
from peftcli.errors import MethodError
from peftcli.pipeline.evaluation import EvaluationRequest, evaluate
from peftcli.pipeline.merging import MergeOptions, merge
from peftcli.pipeline.opening import open_target
from peftcli.pipeline.progress import Silent
from peftcli.pipeline.reading import read
from peftcli.pipeline.training import TrainOptions, train

pytest.importorskip("bitsandbytes", reason="the engine is an extra")
WORDS = ["the", "book", "card", "room", "is", "lost", "open", "late"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe for a tiny LLaMA in 4 bits, with rows to learn."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("quantised")
    base = save_tiny(folder / "base", "llama", "causal-lm")
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "<s>", "</s>", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(base)
    rows = folder / "rows.jsonl"
    lines = [{"prompt": " ".join(WORDS[i : i + 3]), "completion": "lost book"} for i in range(6)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = folder / "recipe.yaml"
    path.write_text(f"""
base: {{name: {base}, quantise: nf4}}
method: {{name: lora, rank: 2, target_modules: all-linear}}
data: {{task: causal-lm, train: {rows}, validation: {rows}, max_length: 16}}
training: {{steps: 4, batch_size: 4, learning_rate: 1e-2, warmup: 0}}
""")
    return path


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    """The finished run of the recipe."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, train(read(recipe), TrainOptions(out=folder), Silent()).report


def test_the_report_and_the_artifact_say_how_the_base_was_held(run):
    folder, report = run
    assert report["base"]["quantise"] == "nf4"
    assert report["proofs"]["frozen_tensors_moved"] == 0
    assert report["proofs"]["difference_from_base"] == 0
    opened = open_target(folder)
    assert opened.artifact.manifest.base.quantise == "nf4"
    assert report["cost"]["base_bytes"] == opened.prepared.base.bytes < 2 * opened.prepared.base.size
    assert report["parameters"]["base"] == opened.prepared.base.anatomy.size
    assert len(opened.prepared.base.quantised) == 14


def test_eval_measures_on_the_same_quantised_base(run):
    folder, report = run
    measured = evaluate(folder, EvaluationRequest(), Silent())["metrics"]
    assert measured["delta"]["loss"] == pytest.approx(report["metrics"]["validation"]["loss"], abs=1e-6)
    assert measured["base"]["loss"] == pytest.approx(report["metrics"]["base"]["loss"], abs=1e-6)


class _Impatient(Silent):
    """Interrupts the run in its third step."""

    def step(self, step, loss, learning_rate, examples_per_second):
        if step == 3:
            raise KeyboardInterrupt


def test_a_run_on_a_quantised_base_is_resumed_to_the_last_bit(run, recipe, tmp_path):
    folder, _ = run
    wanted = read(recipe, ["training.checkpoint_every=1"])
    with pytest.raises(KeyboardInterrupt):
        train(wanted, TrainOptions(out=tmp_path / "run"), _Impatient())
    assert sorted(p.name for p in (tmp_path / "run/checkpoints").glob("step-*"))[-1] == "step-000002"
    train(wanted, TrainOptions(out=tmp_path / "run", resume=True), Silent())
    one, other = (load_file(f / "delta/delta.safetensors") for f in (folder, tmp_path / "run"))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_merge_must_say_which_weights_it_means(run, tmp_path):
    with pytest.raises(MethodError, match="held in nf4: say which weights"):
        merge(run[0], tmp_path / "out", MergeOptions(), Silent())
    assert not (tmp_path / "out").exists()


def test_merged_into_the_dequantised_weights_the_function_stays(run, recipe, tmp_path):
    result = merge(run[0], tmp_path / "out", MergeOptions(into="dequantised"), Silent())
    assert result["check"]["required"]
    assert result["check"]["max_abs_logit_difference"] < 1e-5
    assert result["changed"] == 14
    opened = open_target(run[0])
    layers = opened.prepared.base.quantised
    merged = load_file(tmp_path / "out/model.safetensors")
    delta = opened.adapt()
    for _, block in delta.blocks():
        name = f"{delta.base.path(block.site)}.weight"
        expected = layers[name].weight + block.delta_rows(slice(None)).detach()
        assert torch.allclose(merged[name], expected, atol=1e-6)
    measured = evaluate(tmp_path / "out", EvaluationRequest(data=[str(recipe.parent / "rows.jsonl")]), Silent())
    assert measured["metrics"]["delta"]["loss"] == pytest.approx(run[1]["metrics"]["validation"]["loss"], abs=1e-4)


def test_projections_that_the_delta_leaves_alone_are_dequantised_too(recipe, tmp_path):
    some = read(recipe, ["method.target_modules=[W_q]"])
    train(some, TrainOptions(out=tmp_path / "run"), Silent())
    result = merge(tmp_path / "run", tmp_path / "out", MergeOptions(into="dequantised"), Silent())
    assert result["changed"] == 2
    assert result["check"]["max_abs_logit_difference"] < 1e-5


def test_merged_into_the_original_weights_it_is_another_function_which_is_measured(run, tmp_path):
    result = merge(run[0], tmp_path / "out", MergeOptions(into="original"), Silent())
    assert not result["check"]["passed"]
    assert not result["check"]["required"]
    assert result["check"]["max_abs_logit_difference"] > 1e-2
    shown = CliRunner().invoke(app, ["merge", str(run[0]), "--out", str(tmp_path / "again"), "--into", "original"])
    assert shown.exit_code == 0
    assert "not what was trained" in " ".join(shown.output.split())


@pytest.mark.parametrize("into", ["dequantised", "original"])
def test_a_stack_goes_into_either_weights_in_part(recipe, tmp_path, into):
    stack = "method=[{name: lora, rank: 2, target_modules: all-linear}, {name: prefix, prefix_length: 2}]"
    train(read(recipe, [stack]), TrainOptions(out=tmp_path / "run"), Silent())
    result = merge(tmp_path / "run", tmp_path / "out", MergeOptions(into=into, partial=True), Silent())
    assert (result["folded"], result["staying"]) == (("lora",), ("prefix",))
    difference = result["check"]["max_abs_logit_difference"]
    assert (difference < 1e-5) == (into == "dequantised")
    opened = open_target(tmp_path / "out")
    assert [method.name for method in opened.artifact.methods] == ["prefix"]
    assert not opened.prepared.base.quantised


def test_a_plain_base_has_one_kind_of_weights(recipe, tmp_path):
    plain = read(recipe, ["base.quantise=none", "training.steps=1"])
    train(plain, TrainOptions(out=tmp_path / "run"), Silent())
    with pytest.raises(MethodError, match="was not quantised"):
        merge(tmp_path / "run", tmp_path / "out", MergeOptions(into="original"), Silent())


def test_hugging_face_peft_loads_the_delta(run):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    opened = open_target(run[0])
    with torch.no_grad():
        network = AutoModelForCausalLM.from_pretrained(opened.prepared.source.folder)
        for name, layer in opened.prepared.base.quantised.items():
            network.get_parameter(name).copy_(layer.weight)
        theirs = PeftModel.from_pretrained(network, str(run[0] / "delta")).eval()
        batch = {"input_ids": torch.arange(2, 10)[None]}
        opened.adapt()
        ours = opened.prepared.base.network.eval()
        assert float((theirs(**batch).logits - ours(**batch).logits).abs().max()) < 1e-5
