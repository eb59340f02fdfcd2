"""An artifact is complete and unchanged, or refused with the file and the reason."""

import json
import random

import pytest
import torch

from peftcli import files
from peftcli.artifact.artifact import ArtifactContents, check_base, open_artifact, save
from peftcli.artifact.exports import Export
from peftcli.delta.registry import read_methods
from peftcli.errors import ArtifactError, ResourceError

BASE = {
    "name": "org/tiny",
    "commit": "abc",
    "family": "bert",
    "config": {"model_type": "bert"},
    "network": "BertForSequenceClassification",
    "fingerprint": {"tensors": "t" * 64, "sample": "s" * 64, "parameters": 10},
    "dtype": "float32",
}


def tensors():
    torch.manual_seed(0)
    return {"lora.layers.0.W_q.A": torch.randn(2, 8), "lora.layers.0.W_q.B": torch.randn(8, 2), "n": torch.arange(3)}


def contents(**changes):
    given = {
        "methods": read_methods([{"name": "lora", "rank": 2}]),
        "base": BASE,
        "tensors": tensors(),
        "task": {"name": "classification", "labels": ["a", "b"]},
        "counts": {"delta": 32},
        "seed": 0,
    }
    return ArtifactContents(**{**given, **changes})


@pytest.fixture
def folder(tmp_path):
    save(tmp_path / "run" / "delta", contents())
    return tmp_path / "run" / "delta"


def reseal(folder):
    """Write the manifest anew, as somebody would who edits a file on purpose."""
    entries = {
        p.name: {"bytes": p.stat().st_size, "sha256": files.sha256_file(p)}
        for p in folder.iterdir()
        if p.name != "manifest.json"
    }
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "files": entries}))


def edit(folder, change):
    content = json.loads((folder / "delta.json").read_text())
    change(content)
    (folder / "delta.json").write_text(json.dumps(content))
    reseal(folder)


def test_what_was_saved_is_opened(folder):
    for given in (folder, folder.parent):
        artifact = open_artifact(given)
        assert artifact.folder == folder
        assert artifact.methods == contents().methods
        assert artifact.manifest.base.name == "org/tiny"
        assert artifact.manifest.counts == {"delta": 32}
        loaded = artifact.tensors()
        assert loaded.keys() == tensors().keys()
        assert all(torch.equal(loaded[n], t) for n, t in tensors().items())


def test_the_same_delta_gives_the_same_bytes(folder, tmp_path):
    save(tmp_path / "again", contents())
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_an_artifact_is_not_overwritten_without_being_told(folder):
    with pytest.raises(ResourceError, match="already exists"):
        save(folder, contents())
    save(folder, contents(seed=1), overwrite=True)
    assert open_artifact(folder).manifest.seed == 1


def test_every_damaged_byte_is_noticed(folder):
    pick = random.Random(0)
    originals = {p: p.read_bytes() for p in folder.iterdir()}
    for trial in range(400):
        path = pick.choice(sorted(originals))
        damaged = bytearray(originals[path])
        place = pick.randrange(len(damaged))
        if trial % 4 == 3:
            damaged = damaged[:place]
        else:
            damaged[place] ^= 1 << pick.randrange(8)
        path.write_bytes(damaged)
        if path.name != "manifest.json" or not _same_json(damaged, originals[path]):
            with pytest.raises(ArtifactError):
                open_artifact(folder)
        path.write_bytes(originals[path])
    open_artifact(folder)


def _same_json(one, other):
    """Whether the damage hit a space between the words of the manifest, which says nothing."""
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=2, peftcli="9.1"), r"format 2 needs peftcli >= 9\.1"),
        (lambda c: c.update(format=0), "format"),
        (lambda c: c.update(format=True), "format"),
        (lambda c: c.update(surprise=1), "surprise"),
        (lambda c: c.pop("seed"), "seed"),
        (lambda c: c.update(methods=[]), "methods"),
        (lambda c: c.update(methods={"name": "lora"}), "methods"),
        (lambda c: c["methods"][0].update(name="bogus"), "bogus"),
        (lambda c: c["methods"][0].update(rank=0), "rank"),
        (lambda c: c["methods"][0].update(rnak=1), "rnak"),
        (lambda c: c["methods"][0].pop("name"), "name"),
        (lambda c: c.update(methods=[{"name": "lora", "budget": "1%"}]), "a budget where"),
        (lambda c: c["tensors"].pop("n"), "1 unknown"),
        (lambda c: c["tensors"].update(extra={"shape": [1], "dtype": "F32"}), r"1 tensors missing.*extra"),
        (lambda c: c["tensors"]["n"].update(shape=[4]), "another shape"),
        (lambda c: c["tensors"]["n"].update(dtype="I32"), "another shape or dtype"),
        (lambda c: c["base"].pop("fingerprint"), "fingerprint"),
        (lambda c: c.update(hf_peft="maybe"), "hf_peft"),
    ],
)
def test_an_edited_description_is_refused_even_when_resealed(folder, change, message):
    edit(folder, change)
    with pytest.raises(ArtifactError, match=message):
        open_artifact(folder)


@pytest.mark.parametrize(
    "text", ["[]", "null", "{", '{"a": 1, "a": 2}', '{"a": NaN}', '{"a": Infinity}', "\xff", "[" * 9999]
)
def test_a_description_that_is_no_json_object_is_refused(folder, text):
    (folder / "delta.json").write_bytes(text.encode("latin-1"))
    reseal(folder)
    with pytest.raises(ArtifactError, match=r"delta\.json"):
        open_artifact(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_numbers_that_are_not_finite_are_refused(tmp_path, value, dtype):
    weights = torch.zeros(5, 3, dtype=dtype)
    weights[4, 1] = value
    save(tmp_path / "delta", contents(tensors={"fine": torch.ones(2), "broken": weights}))
    with pytest.raises(ArtifactError, match="broken holds NaN or an infinity"):
        open_artifact(tmp_path / "delta")


def test_the_largest_finite_numbers_are_accepted(tmp_path):
    kinds = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    save(tmp_path / "delta", contents(tensors={str(k): torch.tensor([torch.finfo(k).max], dtype=k) for k in kinds}))
    found = open_artifact(tmp_path / "delta").tensors()
    assert {name: tensor.item() for name, tensor in found.items()} == {str(k): torch.finfo(k).max for k in kinds}


@pytest.mark.parametrize("name", ["delta.json", "delta.safetensors", "manifest.json"])
def test_a_missing_file_is_refused(folder, name):
    (folder / name).unlink()
    with pytest.raises(ArtifactError):
        open_artifact(folder)
    if name != "manifest.json":
        reseal(folder)
        with pytest.raises(ArtifactError, match=f"{name} (does not stand in the manifest|is missing)|{name}"):
            open_artifact(folder)


@pytest.mark.parametrize("name", ["delta.json", "delta.safetensors", "manifest.json"])
def test_a_symbolic_link_is_refused(folder, name):
    (folder / name).rename(folder.parent / name)
    (folder / name).symlink_to(folder.parent / name)
    with pytest.raises(ArtifactError, match="symbolic link"):
        open_artifact(folder)


def test_a_folder_without_a_delta_is_named(tmp_path):
    with pytest.raises(ArtifactError, match="holds no delta"):
        open_artifact(tmp_path)
    with pytest.raises(ArtifactError, match="no such folder"):
        open_artifact(tmp_path / "missing")


def test_files_beside_the_artifact_do_no_harm(folder):
    before = open_artifact(folder)
    (folder / "README.md").write_text("mine")
    assert open_artifact(folder) == before


def test_another_base_is_refused_with_both_names(folder):
    artifact = open_artifact(folder)
    check_base(artifact, BASE["fingerprint"], "org/tiny")
    other = {**BASE["fingerprint"], "sample": "x" * 64}
    with pytest.raises(
        ArtifactError, match=r"org/tiny .*tttttttt-ssssssss.* not on org/other .*tttttttt-xxxxxxxx.*numbers"
    ):
        check_base(artifact, other, "org/other")
    with pytest.raises(ArtifactError, match="names or shapes"):
        check_base(artifact, {**other, "tensors": "y" * 64}, "org/other")
    with pytest.raises(ArtifactError):
        check_base(artifact, {}, "org/other")
    check_base(artifact, other, "org/other", allowed=True)


def test_a_strict_fingerprint_is_compared_where_both_have_it(folder):
    artifact = open_artifact(folder)
    check_base(artifact, {**BASE["fingerprint"], "full": "f"}, "org/tiny")
    edit(folder, lambda c: c["base"]["fingerprint"].update(full="g"))
    with pytest.raises(ArtifactError, match="numbers"):
        check_base(open_artifact(folder), {**BASE["fingerprint"], "full": "f"}, "org/tiny")


def test_the_form_of_hugging_face_lies_beside_it_under_the_same_seal(tmp_path):
    export = Export(kind="exact", config={"r": 2, "target_modules": {"b", "a"}}, tensors={"k": torch.ones(2)})
    save(tmp_path / "delta", contents(export=export))
    assert open_artifact(tmp_path / "delta").manifest.hf_peft == "exact"
    assert json.loads((tmp_path / "delta" / "adapter_config.json").read_text())["target_modules"] == ["a", "b"]
    (tmp_path / "delta" / "adapter_config.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"adapter_config\.json"):
        open_artifact(tmp_path / "delta")
