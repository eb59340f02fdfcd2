"""A merged model computes what the adapted model computes, and says where it comes from."""

import json
import subprocess
import sys

import pytest
import torch
from adapted_models import adapt, logits, reopened, save_base
from safetensors.torch import load_file, save_file

from peftcli import files
from peftcli.artifact.merging import MergeSettings, stream
from peftcli.artifact.row_blocks import RowBlocks
from peftcli.errors import ArtifactError, BaseModelError, MethodError, ResourceError

LORA = {"name": "lora", "rank": 2, "target_modules": "all-linear"}
FULL = {"name": "full"}
HEAD = {"name": "head"}
KEEP = MergeSettings()


NETWORKS = [
    ("bert", "AutoModel", "classification"),
    ("bert", "AutoModelForMaskedLM", "classification"),
    ("bert", "AutoModelForSequenceClassification", "classification"),
    ("roberta", "AutoModelForMaskedLM", "classification"),
    ("distilbert", "AutoModel", "classification"),
    ("deberta-v2", "AutoModel", "classification"),
    ("bart", "AutoModel", "classification"),
    ("bart", "AutoModelForSeq2SeqLM", "classification"),
    ("gpt2", "AutoModel", "classification"),
    ("gpt2", "AutoModelForCausalLM", "causal-lm"),
    ("gpt2", "AutoModel", "causal-lm"),
    ("gpt_neox", "AutoModelForCausalLM", "causal-lm"),
    ("opt", "AutoModelForCausalLM", "causal-lm"),
    ("opt", "AutoModel", "classification"),
    ("llama", "AutoModelForCausalLM", "causal-lm"),
    ("llama", "AutoModelForCausalLM", "classification"),
    ("llama", "AutoModel", "classification"),
    ("phi3", "AutoModelForCausalLM", "causal-lm"),
]
# Head only on a network without a new head would train nothing.
CASES = [(*n, m) for n in NETWORKS for m in (LORA, FULL, [LORA, FULL], HEAD) if (n[2], m) != ("causal-lm", HEAD)]


@pytest.mark.parametrize(("family", "saved_as", "task", "method"), CASES)
def test_a_merged_model_computes_what_the_adapted_one_does(tmp_path, family, saved_as, task, method):
    base = save_base(tmp_path / "base", family, saved_as)
    adapted = adapt(base, tmp_path / "run", method, task)
    summary = stream(adapted.artifact, base, tmp_path / "merged", KEEP)
    merged = reopened(tmp_path / "merged", task)
    assert torch.allclose(logits(merged), adapted.logits(), atol=1e-5)
    assert type(merged) is type(adapted.delta.base.network)
    assert summary.changed > 0
    assert summary.relative_error is None


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_tied_embedding_that_was_trained_is_written_once_and_stays_tied(tmp_path, family):
    base = save_base(tmp_path / "base", family, "AutoModelForCausalLM", tie_word_embeddings=True)
    weights = load_file(base / "model.safetensors")
    table = next(n for n in weights if "wte" in n or "embed_tokens" in n)
    weights["lm_head.weight"] = weights[table].clone()  # some checkpoints hold both copies
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    adapted = adapt(base, tmp_path / "run", FULL, "causal-lm")
    summary = stream(adapted.artifact, base, tmp_path / "merged", KEEP)
    assert summary.dropped == ("lm_head.weight",)
    merged = reopened(tmp_path / "merged", "causal-lm")
    assert merged.get_output_embeddings().weight is merged.get_input_embeddings().weight
    assert torch.equal(logits(merged), adapted.logits())


def test_untouched_tensors_are_copied_byte_for_byte(tmp_path):
    base = save_base(tmp_path / "base", "gpt2", "AutoModelForCausalLM", dtype=torch.bfloat16)
    adapted = adapt(
        base, tmp_path / "run", {"name": "lora", "target_modules": ["W_q"], "layers": 1, "rank": 2}, "causal-lm"
    )
    summary = stream(adapted.artifact, base, tmp_path / "merged", KEEP)
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "merged" / "model.safetensors")
    changed = [n for n in before if not torch.equal(before[n], after[n])]
    assert before.keys() == after.keys()
    assert changed == ["transformer.h.1.attn.c_attn.weight"]
    assert summary.changed == 1


def test_merging_into_bfloat16_says_what_rounding_took(tmp_path):
    base = save_base(tmp_path / "base", "llama", "AutoModelForCausalLM", dtype=torch.bfloat16)
    adapted = adapt(base, tmp_path / "run", LORA, "causal-lm")
    summary = stream(adapted.artifact, base, tmp_path / "merged", KEEP)
    exact = stream(adapted.artifact, base, tmp_path / "exact", MergeSettings(dtype="float32"))
    before, rounded, full = (load_file(tmp_path / f / "model.safetensors") for f in ("base", "merged", "exact"))
    touched = [n for n in before if ("_proj" in n)]
    error = sum(float((rounded[n].float() - full[n]).square().sum()) for n in touched) ** 0.5
    delta = sum(float((full[n] - before[n].float()).square().sum()) for n in touched) ** 0.5
    unchanged = sum(int((rounded[n] == before[n]).sum()) for n in touched) / sum(before[n].numel() for n in touched)
    assert summary.relative_error == pytest.approx(error / delta, rel=1e-4)
    assert summary.share_unchanged == pytest.approx(unchanged)
    assert exact.relative_error is None
    assert {t.dtype for t in full.values()} == {torch.float32}
    assert json.loads((tmp_path / "exact" / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize("rows", [1, 3, 512])
def test_the_cut_into_rows_changes_nothing(tmp_path, monkeypatch, rows):
    base = save_base(tmp_path / "base", "phi3", "AutoModelForCausalLM")
    adapted = adapt(base, tmp_path / "run", LORA, "causal-lm")
    stream(adapted.artifact, base, tmp_path / "whole", KEEP)
    monkeypatch.setattr("peftcli.artifact.row_blocks.MOST_ROWS", rows)
    monkeypatch.setattr("peftcli.artifact.row_blocks.BLOCK", 100)
    stream(adapted.artifact, base, tmp_path / "cut", KEEP)
    whole, cut = (load_file(tmp_path / f / "model.safetensors") for f in ("whole", "cut"))
    assert all(torch.allclose(whole[n], cut[n], atol=1e-6) for n in whole)


def test_a_large_model_is_cut_into_shards(tmp_path):
    base = save_base(tmp_path / "base", "llama", "AutoModelForCausalLM")
    adapted = adapt(base, tmp_path / "run", LORA, "classification")
    stream(adapted.artifact, base, tmp_path / "merged", MergeSettings(shard_bytes=5000))
    shards = sorted((tmp_path / "merged").glob("model-*.safetensors"))
    assert len(shards) > 2
    assert all(s.stat().st_size < 7000 for s in shards)
    assert torch.allclose(logits(reopened(tmp_path / "merged", "classification")), adapted.logits(), atol=1e-5)
    again = adapt(tmp_path / "merged", tmp_path / "again", LORA, "classification")  # and shards are merged onto
    stream(again.artifact, tmp_path / "merged", tmp_path / "twice", KEEP)
    assert torch.allclose(logits(reopened(tmp_path / "twice", "classification")), again.logits(), atol=1e-5)


def test_the_config_knows_the_labels_and_the_network(tmp_path):
    base = save_base(tmp_path / "base", "bert")
    stream(adapt(base, tmp_path / "run", LORA, "classification").artifact, base, tmp_path / "merged", KEEP)
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "no", "1": "maybe", "2": "yes"}
    assert config["label2id"] == {"no": 0, "maybe": 1, "yes": 2}


def test_every_tensor_of_a_bare_backbone_gets_the_name_it_has_beside_a_head(tmp_path):
    base = save_base(tmp_path / "base", "bert")
    stream(adapt(base, tmp_path / "run", LORA, "classification").artifact, base, tmp_path / "merged", KEEP)
    names = load_file(tmp_path / "merged" / "model.safetensors").keys()
    assert all(n.startswith(("bert.", "classifier.")) for n in names)


def test_checkpoints_in_old_words_are_merged(tmp_path):
    base = save_base(tmp_path / "base", "bert", "AutoModelForMaskedLM")
    weights = load_file(base / "model.safetensors")
    old = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for n, t in weights.items()
    }
    save_file(old, base / "model.safetensors", {"format": "pt"})
    adapted = adapt(base, tmp_path / "run", FULL, "classification")
    stream(adapted.artifact, base, tmp_path / "merged", KEEP)
    assert torch.allclose(logits(reopened(tmp_path / "merged", "classification")), adapted.logits(), atol=1e-6)


def test_tokenizer_and_generation_files_come_along_and_others_do_not(tmp_path):
    base = save_base(tmp_path / "base", "gpt2", "AutoModelForCausalLM")
    for name in ("vocab.json", "merges.txt", "chat_template.jinja", "LICENSE.md"):
        (base / name).write_text(name)
    (base / "modeling.py").write_text("raise SystemExit")
    (base / "pytorch_model.bin").write_text("pickle")
    stream(adapt(base, tmp_path / "run", LORA, "causal-lm").artifact, base, tmp_path / "merged", KEEP)
    found = {p.name for p in (tmp_path / "merged").iterdir()}
    assert {"vocab.json", "merges.txt", "chat_template.jinja", "LICENSE.md", "generation_config.json"} <= found
    assert not {"modeling.py", "pytorch_model.bin"} & found


def test_a_merged_model_says_where_it_comes_from_and_is_not_merged_onto_again(tmp_path):
    base = save_base(tmp_path / "base", "bert", "AutoModelForSequenceClassification")
    artifact = adapt(base, tmp_path / "run", LORA, "classification").artifact
    stream(artifact, base, tmp_path / "merged", KEEP)
    said = json.loads((tmp_path / "merged" / "peftcli.json").read_text())
    assert said["merged_from"] == [artifact.sha256]
    assert said["base"]["name"] == str(base)
    assert said["task"]["labels"] == ["no", "maybe", "yes"]
    with pytest.raises(MethodError, match="already merged"):
        stream(artifact, tmp_path / "merged", tmp_path / "twice", KEEP)


def test_what_is_no_change_of_weights_is_refused(tmp_path):
    base = save_base(tmp_path / "base", "bert")
    artifact = adapt(base, tmp_path / "run", {"name": "houlsby", "bottleneck": 2}, "classification").artifact
    with pytest.raises(MethodError, match=r"houlsby cannot be merged.*\n  hint: Keep the delta beside"):
        stream(artifact, base, tmp_path / "merged", KEEP)


def test_another_base_is_refused_unless_it_is_wanted(tmp_path):
    base = save_base(tmp_path / "base", "bert")
    artifact = adapt(base, tmp_path / "run", LORA, "classification").artifact
    weights = load_file(base / "model.safetensors")
    weights["embeddings.word_embeddings.weight"] += 1
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(ArtifactError, match="trained on"):
        stream(artifact, base, tmp_path / "merged", KEEP)
    stream(artifact, base, tmp_path / "merged", MergeSettings(allow_base_mismatch=True))


def test_a_base_that_lacks_a_tensor_is_refused(tmp_path):
    base = save_base(tmp_path / "base", "bert")
    artifact = adapt(base, tmp_path / "run", LORA, "classification").artifact
    weights = load_file(base / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(BaseModelError, match=r"miss 1 tensors .*layer\.1\.output\.dense\.weight"):
        stream(artifact, base, tmp_path / "merged", MergeSettings(allow_base_mismatch=True))


def test_quantised_weights_are_refused(tmp_path):
    base = save_base(tmp_path / "base", "llama", "AutoModelForCausalLM")
    artifact = adapt(base, tmp_path / "run", LORA, "causal-lm").artifact
    weights = load_file(base / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"] = weights["model.layers.0.mlp.up_proj.weight"].to(torch.uint8)
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(BaseModelError, match=r"up_proj.*quantised"):
        stream(artifact, base, tmp_path / "merged", MergeSettings(allow_base_mismatch=True))


def test_an_existing_folder_is_only_replaced_when_told(tmp_path):
    base = save_base(tmp_path / "base", "bert")
    artifact = adapt(base, tmp_path / "run", LORA, "classification").artifact
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "mine").write_text("")
    with pytest.raises(ResourceError, match="already exists"):
        stream(artifact, base, tmp_path / "merged", KEEP)
    assert (tmp_path / "merged" / "mine").exists()
    stream(artifact, base, tmp_path / "merged", MergeSettings(overwrite=True))
    assert not (tmp_path / "merged" / "mine").exists()


def test_a_merge_that_fails_anywhere_leaves_nothing(tmp_path, monkeypatch):
    base = save_base(tmp_path / "base", "bert")
    artifact = adapt(base, tmp_path / "run", LORA, "classification").artifact
    count = 0

    def hook(_):
        nonlocal count
        count += 1

    monkeypatch.setattr(files, "_operations", hook)
    stream(artifact, base, tmp_path / "merged", KEEP)
    total = count
    for number in range(1, total + 1, 5):
        count = 0

        def failing(_, number=number):
            nonlocal count
            count += 1
            if count == number:
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(files, "_operations", failing)
        with pytest.raises(ResourceError):
            stream(artifact, base, tmp_path / f"out-{number}", KEEP)
        assert not list(tmp_path.glob(".tmp-*"))
    monkeypatch.setattr(files, "_operations", None)


def test_merging_imports_neither_transformers_nor_peft(tmp_path):
    base = save_base(tmp_path / "base", "gpt2", "AutoModelForCausalLM")
    adapt(base, tmp_path / "run", LORA, "causal-lm")
    code = (
        "import sys; from pathlib import Path; from peftcli.artifact.artifact import open_artifact\n"
        "from peftcli.artifact.merging import MergeSettings, stream\n"
        "stream(open_artifact(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]), MergeSettings())\n"
        "print(sorted({'transformers', 'peft', 'safetensors', 'accelerate', 'datasets'} & set(sys.modules)))"
    )
    paths = [tmp_path / "run", base, tmp_path / "merged"]
    run = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_memory_stays_at_a_few_blocks(tmp_path, monkeypatch):
    sizes = []
    buffer = RowBlocks._buffer

    def watched(self, use, count):
        sizes.append(count)
        return buffer(self, use, count)

    monkeypatch.setattr(RowBlocks, "_buffer", watched)
    base = save_base(tmp_path / "base", "gpt2", "AutoModelForCausalLM", vocab_size=200_000)
    adapted = adapt(base, tmp_path / "run", FULL, "causal-lm")
    stream(adapted.artifact, base, tmp_path / "merged", KEEP)
    assert max(sizes) <= 4 * 2**20
