"""Verifying says what was checked, and refuses what does not hold."""

import json

import pytest
from adapted_models import adapt, save_base
from safetensors.torch import load_file, save_file

from peftcli import files
from peftcli.artifact.verifying import verify
from peftcli.errors import ArtifactError

LORA = {"name": "lora", "rank": 2}


@pytest.fixture
def run(tmp_path):
    base = save_base(tmp_path / "base", "bert")
    adapt(base, tmp_path / "run", LORA, "classification")
    return tmp_path / "run"


def by_name(checks):
    return {c.name: c for c in checks}


def test_a_sound_artifact_passes_every_check(run, tmp_path):
    checks = by_name(verify(run, tmp_path / "base", strict=False))
    assert all(c.ok for c in checks.values()), checks
    assert checks["methods"].detail == "lora"
    assert checks["other files"].detail == "none"


def test_a_base_that_is_not_given_is_said_to_be_unchecked(run):
    checks = by_name(verify(run, None, strict=False))
    assert not checks["base model"].ok
    assert "not given" in checks["base model"].detail


def test_strict_reads_every_byte_of_the_base(run, tmp_path):
    assert "no full hash" in by_name(verify(run, tmp_path / "base", strict=True))["base model"].detail


def test_another_base_is_refused(run, tmp_path):
    weights = load_file(tmp_path / "base" / "model.safetensors")
    weights["pooler.dense.bias"] += 1
    save_file(weights, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ArtifactError, match="trained on"):
        verify(run, tmp_path / "base", strict=False)


def test_settings_that_do_not_make_these_tensors_are_refused(run):
    folder = run / "delta"
    content = json.loads((folder / "delta.json").read_text())
    content["methods"][0]["rank"] = 4
    (folder / "delta.json").write_text(json.dumps(content))
    entries = {
        p.name: {"bytes": p.stat().st_size, "sha256": files.sha256_file(p)}
        for p in folder.iterdir()
        if p.name != "manifest.json"
    }
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "files": entries}))
    with pytest.raises(ArtifactError, match="8 of another shape"):
        verify(run, None, strict=False)


def test_files_that_nobody_lists_are_named(run):
    (run / "delta" / "notes.txt").write_text("mine")
    assert "notes.txt" in by_name(verify(run, None, strict=False))["other files"].detail
