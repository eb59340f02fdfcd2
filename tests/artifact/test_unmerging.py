"""An unmerged model is the base, file by file and bit for bit."""

import json

import pytest
import torch
from adapted_models import adapt, save_base
from safetensors.torch import load_file, save_file

from peftcli import files
from peftcli.artifact.base_folder import BaseFolder
from peftcli.artifact.merging import MergeSettings, stream
from peftcli.artifact.unmerging import unmerge
from peftcli.errors import ArtifactError, ResourceError

LORA = {"name": "lora", "rank": 2, "target_modules": "all-linear"}
FULL = {"name": "full"}
SPARSE = {"name": "lt_sft", "entries": "20%"}
PREFIX = {"name": "prefix", "prefix_length": 2}
KEPT = MergeSettings(keep_originals=True)

CASES = {
    "a classifier on a bare backbone": ("bert", "AutoModel", "classification", LORA, {}, {}),
    "another number of labels": ("bert", "AutoModelForSequenceClassification", "classification", FULL, {}, {}),
    "a masked language model's own head": ("roberta", "AutoModelForMaskedLM", "classification", LORA, {}, {}),
    "a transposed and fused projection": ("gpt2", "AutoModelForCausalLM", "causal-lm", [LORA, FULL], {}, {}),
    "tied embeddings that trained": (
        "llama",
        "AutoModelForCausalLM",
        "causal-lm",
        FULL,
        {"tie_word_embeddings": True},
        {},
    ),
    "single entries": ("llama", "AutoModelForCausalLM", "causal-lm", SPARSE, {}, {}),
    "a merge in shards": ("llama", "AutoModelForCausalLM", "causal-lm", LORA, {}, {"shard_bytes": 5000}),
    "another type": ("llama", "AutoModelForCausalLM", "causal-lm", LORA, {}, {"dtype": "bfloat16"}),
    "a wider type": (
        "gpt2",
        "AutoModelForCausalLM",
        "causal-lm",
        LORA,
        {"dtype": torch.bfloat16},
        {"dtype": "float32"},
    ),
    "a merge in part": ("bert", "AutoModel", "classification", [LORA, PREFIX], {}, {"partial": True}),
}


def contents(folder) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def cut_in_two(base) -> None:
    """Cut a checkpoint into two shards, not in the order of the alphabet, and with words of its own in the headers."""
    weights = load_file(base / "model.safetensors")
    names = sorted(weights, reverse=True)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, own in halves.items():
        save_file({n: weights[n] for n in own}, base / file, {"format": "pt", "by": "somebody"})
    places = {n: file for file, own in halves.items() for n in own}
    (base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}, indent=4))
    (base / "model.safetensors").unlink()


@pytest.mark.parametrize("sharded", [False, True], ids=["one file", "shards"])
@pytest.mark.parametrize("case", CASES)
def test_what_was_kept_gives_every_file_of_the_base_back_without_it(tmp_path, case, sharded):
    family, saved_as, task, method, config, settings = CASES[case]
    base = save_base(tmp_path / "base", family, saved_as, **config)
    (base / "vocab.txt").write_text("a b")
    if sharded:
        cut_in_two(base)
    artifact = adapt(base, tmp_path / "run", method, task).artifact
    assert stream(artifact, base, tmp_path / "merged", MergeSettings(keep_originals=True, **settings)).changed
    before = contents(base)
    base.rename(tmp_path / "away")
    summary = unmerge(tmp_path / "merged", tmp_path / "back", None)
    assert contents(tmp_path / "back") == before
    assert summary.checked == "every byte"


@pytest.mark.parametrize("case", ["a classifier on a bare backbone", "another type"])
def test_a_base_that_is_at_hand_is_given_back_once_it_is_proven_to_be_the_one(tmp_path, case):
    family, saved_as, task, method, config, settings = CASES[case]
    base = save_base(tmp_path / "base", family, saved_as, **config)
    cut_in_two(base)
    artifact = adapt(base, tmp_path / "run", method, task).artifact
    stream(artifact, base, tmp_path / "merged", MergeSettings(**settings))
    unmerge(tmp_path / "merged", tmp_path / "back", base)
    assert contents(tmp_path / "back") == contents(base)


def test_only_what_the_merge_changed_is_kept(tmp_path):
    base = save_base(tmp_path / "base", "llama", "AutoModelForCausalLM")
    method = {"name": "lora", "rank": 2, "target_modules": ["W_q"], "layers": 1}
    stream(adapt(base, tmp_path / "run", method, "causal-lm").artifact, base, tmp_path / "merged", KEPT)
    kept = load_file(tmp_path / "merged" / "originals" / "tensors.safetensors")
    assert list(kept) == ["model.safetensors/model.layers.1.self_attn.q_proj.weight"]


def test_of_two_merges_the_last_is_undone(tmp_path):
    base = save_base(tmp_path / "base", "llama", "AutoModelForCausalLM")
    once, twice = tmp_path / "once", tmp_path / "twice"
    stream(adapt(base, tmp_path / "first", LORA, "causal-lm").artifact, base, once, KEPT)
    stream(adapt(once, tmp_path / "second", FULL, "causal-lm").artifact, once, twice, KEPT)
    unmerge(twice, tmp_path / "back", None)
    assert contents(tmp_path / "back") == contents(once)
    with pytest.raises(ArtifactError, match="keeps no originals"):
        unmerge(tmp_path / "back", tmp_path / "further", None)
    unmerge(tmp_path / "back", tmp_path / "further", base)
    assert contents(tmp_path / "further") == contents(base)


def test_what_is_no_merged_model_is_refused(tmp_path):
    base = save_base(tmp_path / "base", "bert")
    with pytest.raises(ArtifactError, match=r"no merged model: peftcli\.json is missing"):
        unmerge(base, tmp_path / "back", None)
    for said in ("{}", "[]", '{"base": {"name": "x", "commit": null, "fingerprint": {}, "config_sha256": ""}}'):
        (base / "peftcli.json").write_text(said)
        with pytest.raises(ArtifactError, match="does not say what it was merged onto"):
            unmerge(base, tmp_path / "back", None)


@pytest.fixture
def merged(tmp_path):
    base = save_base(tmp_path / "base", "bert")
    stream(adapt(base, tmp_path / "run", LORA, "classification").artifact, base, tmp_path / "merged", KEPT)
    return tmp_path / "merged"


def flip(path, at) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["tensors.safetensors", "layout.json", "config.json", "manifest.json"])
def test_damaged_originals_are_refused_and_leave_nothing(tmp_path, merged, name):
    flip(merged / "originals" / name, -9)
    with pytest.raises(ArtifactError):
        unmerge(merged, tmp_path / "back", None)
    (merged / "originals" / name).unlink()
    with pytest.raises(ArtifactError):
        unmerge(merged, tmp_path / "back", None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "merged", "run"]


def test_a_merged_model_whose_unchanged_tensors_were_touched_is_not_the_base(tmp_path, merged):
    with BaseFolder(merged) as model:
        entry = model.tensors["bert.embeddings.word_embeddings.weight"].entry
    flip(merged / "model.safetensors", entry.start + 200)
    with pytest.raises(ArtifactError, match="its tensors are others"):
        unmerge(merged, tmp_path / "back", None)
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("name", ["../escaped.safetensors", "config.json"])
def test_a_layout_that_names_other_files_is_refused(tmp_path, merged, name):
    path = merged / "originals" / "layout.json"
    layout = json.loads(path.read_text())
    layout["files"][name] = layout["files"].pop("model.safetensors")
    files.write_json(path, layout)
    manifest = json.loads((path.parent / "manifest.json").read_text())
    manifest["files"]["layout.json"] = {"bytes": path.stat().st_size, "sha256": files.sha256_file(path)}
    files.write_json(path.parent / "manifest.json", manifest)
    with pytest.raises(ArtifactError, match="leaves the folder"):
        unmerge(merged, tmp_path / "back", None)
    assert not (tmp_path / "escaped.safetensors").exists()


def test_a_base_that_is_another_one_now_is_refused(tmp_path, merged):
    base = tmp_path / "base"
    config = (base / "config.json").read_text()
    (base / "config.json").write_text(config.replace('"hidden_act": "gelu"', '"hidden_act": "relu"'))
    with pytest.raises(ArtifactError, match=r"its config\.json is another one"):
        unmerge(merged, tmp_path / "back", base)
    (base / "config.json").write_text(config)
    with BaseFolder(base) as model:
        entry = model.tensors["embeddings.word_embeddings.weight"].entry
    flip(base / "model.safetensors", entry.start)
    with pytest.raises(ArtifactError, match="its tensors are others"):
        unmerge(merged, tmp_path / "back", base)
    assert not (tmp_path / "back").exists()


def test_an_existing_folder_is_only_replaced_when_told(tmp_path, merged):
    (tmp_path / "back").mkdir()
    with pytest.raises(ResourceError, match="already exists"):
        unmerge(merged, tmp_path / "back", None)
    unmerge(merged, tmp_path / "back", None, overwrite=True)
    unmerge(merged, merged, None, overwrite=True)  # even the merged model itself
    assert contents(merged) == contents(tmp_path / "base") == contents(tmp_path / "back")


@pytest.mark.parametrize("work", ["merge", "unmerge"])
def test_what_fails_anywhere_leaves_nothing(tmp_path, monkeypatch, work):
    base = save_base(tmp_path / "base", "bert")
    artifact = adapt(base, tmp_path / "run", [LORA, PREFIX], "classification").artifact
    settings = MergeSettings(keep_originals=True, partial=True)
    stream(artifact, base, tmp_path / "merged", settings)
    count, limit = 0, 0

    def operation(_):
        nonlocal count
        count += 1
        if count == limit:
            raise OSError(28, "No space left on device")

    def act(out):
        if work == "merge":
            stream(artifact, base, out, settings)
        else:
            unmerge(tmp_path / "merged", out, None)

    monkeypatch.setattr(files, "_operations", operation)
    act(tmp_path / "whole")
    total = count
    for number in range(1, total, 3):
        count, limit = 0, number
        with pytest.raises(ResourceError):
            act(tmp_path / "out")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "merged", "run", "whole"]
