"""safetensors files are written as the reference reads them, and read as strictly as the reference."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from peftcli.artifact.numbers import DTYPES, dtype_name, from_bytes, to_bytes
from peftcli.artifact.tensor_file import TensorFile, TensorSpec, arranged, new_tensor_file
from peftcli.errors import ArtifactError, BaseModelError


def write(path, tensors):
    specs = arranged([TensorSpec(n, dtype_name(t.dtype), tuple(t.shape)) for n, t in tensors.items()])
    with new_tensor_file(path, specs) as writer:
        for spec in specs:
            writer.begin(spec)
            writer.write(to_bytes(tensors[spec.name]))


def mixed():
    torch.manual_seed(0)
    return {
        "b": torch.randn(3, 5),
        "a.half": torch.randn(7).to(torch.float16),
        "c": torch.randn(2, 2, 2).to(torch.bfloat16),
        "long": torch.arange(5),
        "flags": torch.tensor([True, False, True]),
        "scalar": torch.tensor(1.5, dtype=torch.float64),
        "empty": torch.empty(0, 4),
        "transposed": torch.randn(4, 3).T,
        "byte": torch.arange(3, dtype=torch.uint8),
        "ünïcode": torch.arange(3, dtype=torch.int32),
    }


def test_the_reference_reads_what_is_written(tmp_path):
    write(tmp_path / "x.safetensors", mixed())
    loaded = load_file(tmp_path / "x.safetensors")
    assert loaded.keys() == mixed().keys()
    assert all(torch.equal(loaded[n], t) and loaded[n].dtype == t.dtype for n, t in mixed().items())


def test_what_the_reference_writes_is_read(tmp_path):
    tensors = {n: t.contiguous() for n, t in mixed().items()}
    save_file(tensors, tmp_path / "x.safetensors", {"format": "pt"})
    with TensorFile(tmp_path / "x.safetensors") as file:
        assert file.metadata == {"format": "pt"}
        for name, entry in file.entries.items():
            found = from_bytes(file.read(name), entry.dtype).reshape(entry.shape)
            assert torch.equal(found, tensors[name])


def test_only_the_format_stands_in_the_metadata(tmp_path):
    write(tmp_path / "x.safetensors", mixed())
    with TensorFile(tmp_path / "x.safetensors") as file:
        assert file.metadata == {"format": "pt"}


def test_every_tensor_is_aligned_to_its_dtype(tmp_path):
    write(tmp_path / "x.safetensors", mixed())
    with TensorFile(tmp_path / "x.safetensors") as file:
        assert all(e.start % DTYPES[e.dtype].itemsize == 0 for e in file.entries.values())


def test_a_file_that_is_not_finished_does_not_appear(tmp_path):
    specs = [TensorSpec("a", "F32", (2,))]

    def half():
        with new_tensor_file(tmp_path / "x", specs) as writer:
            writer.begin(specs[0])
            writer.write(b"1234")

    with pytest.raises(AssertionError, match="not complete"):
        half()
    with pytest.raises(AssertionError, match="missing"), new_tensor_file(tmp_path / "x", specs):
        pass
    assert list(tmp_path.iterdir()) == []


def entry(begin=0, end=4, **changes):
    return {"dtype": "F32", "shape": [1], "data_offsets": [begin, end], **changes}


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"a": entry()}, 3, "describes"),
        ({"a": entry()}, 5, "describes"),
        ({"a": entry(), "b": entry()}, 4, "were expected"),
        ({"a": entry(), "b": entry(8, 12)}, 12, "were expected"),
        ({"a": entry(0, 5)}, 5, "were expected"),
        ({"a": entry(dtype="F99")}, 4, "F99"),
        ({"a": entry(dtype=["F32"])}, 4, "not known"),
        ({"a": entry(shape=[-1])}, 4, "whole numbers"),
        ({"a": entry(shape=[True])}, 4, "whole numbers"),
        ({"a": entry(shape=[1.0])}, 4, "whole numbers"),
        ({"a": entry(shape=[2**62, 2**62])}, 4, "were expected"),
        ({"a": entry(data_offsets=[0])}, 4, "whole numbers"),
        ({"a": entry(data_offsets=[4, 0])}, 4, "were expected"),
        ({"a": {**entry(), "more": 1}}, 4, "data_offsets"),
        ({"a": []}, 4, "data_offsets"),
        ({"__metadata__": {"format": 1}, "a": entry()}, 4, "metadata"),
        ({"__metadata__": [], "a": entry()}, 4, "metadata"),
    ],
)
def test_a_header_that_does_not_fit_the_data_is_refused(tmp_path, header, data, message):
    text = json.dumps(header).encode()
    (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * data)
    with pytest.raises(ArtifactError, match=message):
        TensorFile(tmp_path / "x")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abcd",
        b"\xff" * 8,
        (200_000_000).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"\xff\xff",
        (3).to_bytes(8, "little") + b" {}",
        (40).to_bytes(8, "little") + b'{"a": 1, "a": 2}                        ',
        (40).to_bytes(8, "little") + b"{" * 40,
    ],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(BaseModelError, match="not a sound safetensors file"):
        TensorFile(tmp_path / "x", BaseModelError)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ArtifactError, match="no such file"):
        TensorFile(tmp_path / "x")
