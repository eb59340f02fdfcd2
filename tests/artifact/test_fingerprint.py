"""A fingerprint tells base models apart, and does not depend on how the files are cut."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from peftcli.artifact.fingerprint import fingerprint
from peftcli.errors import BaseModelError


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {f"layers.{i}.weight": torch.randn(100, 60, generator=generator) for i in range(4)}


def put(folder, weights):
    folder.mkdir()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def put_shards(folder, weights):
    folder.mkdir()
    places = {}
    for i, (name, tensor) in enumerate(weights.items()):
        places[name] = f"part-{i}.safetensors"
        save_file({name: tensor}, folder / places[name], {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def test_the_same_shapes_with_other_numbers_have_another_sample(tmp_path):
    one, other = fingerprint(put(tmp_path / "a", tensors(0))), fingerprint(put(tmp_path / "b", tensors(1)))
    assert one["tensors"] == other["tensors"]
    assert one["sample"] != other["sample"]
    assert one["parameters"] == 24_000


def test_other_names_or_dtypes_have_other_tensors(tmp_path):
    one = fingerprint(put(tmp_path / "a", tensors()))
    renamed = fingerprint(put(tmp_path / "b", {n.upper(): t for n, t in tensors().items()}))
    half = fingerprint(put(tmp_path / "c", {n: t.half() for n, t in tensors().items()}))
    reshaped = fingerprint(put(tmp_path / "d", {n: t.T.contiguous() for n, t in tensors().items()}))
    assert len({f["tensors"] for f in (one, renamed, half, reshaped)}) == 4


def test_shards_have_the_fingerprint_of_the_whole(tmp_path):
    whole, shards = put(tmp_path / "a", tensors()), put_shards(tmp_path / "b", tensors())
    assert fingerprint(whole, strict=True) == fingerprint(shards, strict=True)


def test_only_the_strict_fingerprint_reads_every_byte(tmp_path):
    one = put(tmp_path / "a", tensors())
    changed = tensors()
    changed["layers.2.weight"].view(-1)[1200] += 1  # bytes 4800-4804: between the first and the middle sample
    other = put(tmp_path / "b", changed)
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint(one, strict=True)["full"] != fingerprint(other, strict=True)["full"]


@pytest.mark.parametrize("name", ["../a/model.safetensors", "/etc/passwd", "x/../../a", "..\\a"])
def test_an_index_that_leaves_the_folder_is_refused(tmp_path, name):
    put(tmp_path / "a", tensors())
    folder = put_shards(tmp_path / "b", tensors())
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["layers.0.weight"] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BaseModelError, match="leaves the folder"):
        fingerprint(folder)


def test_a_missing_shard_is_named(tmp_path):
    folder = put_shards(tmp_path / "b", tensors())
    (folder / "part-2.safetensors").unlink()
    with pytest.raises(BaseModelError, match=r"part-2\.safetensors, which is missing"):
        fingerprint(folder)


def test_an_index_that_lies_is_refused(tmp_path):
    folder = put_shards(tmp_path / "b", tensors())
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("layers.3.weight", "layers.9.weight"))
    with pytest.raises(BaseModelError, match=r"2 tensors do not lie where it says .*layers\.3\.weight"):
        fingerprint(folder)


@pytest.mark.parametrize("text", ["[]", "{}", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}', "{"])
def test_an_index_of_another_form_is_refused(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(BaseModelError):
        fingerprint(tmp_path)


def test_a_folder_of_pickles_is_refused_unopened(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(BaseModelError, match="pickle"):
        fingerprint(tmp_path)


def test_linked_files_of_a_hub_cache_are_read(tmp_path):
    real = put_shards(tmp_path / "blobs", tensors())
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for path in real.iterdir():
        (snapshot / path.name).symlink_to(path)
    assert fingerprint(snapshot) == fingerprint(real)


def test_a_fingerprint_needs_no_torch(tmp_path):
    code = (
        "import sys, pathlib; from peftcli.artifact.fingerprint import fingerprint; "
        "fingerprint(pathlib.Path(sys.argv[1])); print(sorted({'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    )
    folder = put(tmp_path / "a", tensors())
    run = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
