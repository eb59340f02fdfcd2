"""A folder for each class, on disk or in an archive, gives the same rows; whatever lies elsewhere is told."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from peftcli.data.rows import RowStream, read_rows
from peftcli.errors import DataError

PLACES = ["train/cat/1.png", "train/cat/2.PNG", "train/dog/deep/3.png", "val/cat/4.png", "val/dog/5.png"]


def png(shade):
    file = io.BytesIO()
    Image.new("L", (3, 2), shade).save(file, "PNG")
    return file.getvalue()


def fill(folder, places):
    for number, place in enumerate(places):
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    return folder


@pytest.fixture
def folder(tmp_path):
    root = fill(tmp_path / "pets", PLACES)
    (root / "train/cat/notes.txt").write_text("no image")
    (root / "train/cat/._1.png").write_text("what another system leaves")
    (root / ".hidden/x").mkdir(parents=True)
    (root / ".hidden/x/y.png").write_bytes(png(9))
    return root


def labels(table):
    return [row.values["label"] for row in table.rows]


def test_a_split_of_a_folder_has_its_classes(folder):
    train, validation = read_rows(str(folder), "train"), read_rows(str(folder), "validation")
    assert labels(train) == ["cat", "cat", "dog"]
    assert labels(validation) == ["cat", "dog"]
    assert train.rows[2].where.endswith("pets/train/dog/deep/3.png")
    assert labels(read_rows(str(folder / "train"), "validation")) == ["cat", "cat", "dog"]
    with pytest.raises(DataError, match="there are no test images") as caught:
        read_rows(str(folder), "test")
    assert caught.value.problems[0].hint == "There is train, val."


def _tar(folder, path):
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, "pets")
        link = tarfile.TarInfo("pets/train/cat/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    return path


def _zip(folder, path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, f"pets/{file.relative_to(folder)}")
    return path


@pytest.mark.parametrize(("pack", "name"), [(_tar, "pets.tar.gz"), (_tar, "pets.tgz"), (_zip, "pets.zip")])
def test_an_archive_gives_what_its_folder_would(folder, tmp_path, pack, name):
    archive = pack(folder, tmp_path / name)
    for split in ("train", "validation"):
        found = {row.values["image"]["bytes"]: row.values["label"] for row in read_rows(str(archive), split).rows}
        expected = read_rows(str(folder), split).rows
        assert found == {Path(row.values["image"]).read_bytes(): row.values["label"] for row in expected}
    assert not [path for path in tmp_path.iterdir() if path.name not in ("pets", name)]


@pytest.mark.parametrize("pack", [_tar, _zip])
def test_a_broken_archive_is_named(folder, tmp_path, pack):
    archive = pack(folder, tmp_path / ("a.zip" if pack is _zip else "a.tar.gz"))
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"a\.(zip|tar\.gz)"):
        read_rows(str(archive))


def test_an_archive_that_would_fill_the_memory_is_to_be_unpacked(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("peftcli.data.image_folders._MOST_BYTES", 100)
    with pytest.raises(DataError, match="would all lie in memory"):
        read_rows(str(_zip(folder, tmp_path / "a.zip")))


def test_the_digest_of_a_folder_is_that_of_its_images(folder, tmp_path):
    before = read_rows(str(folder)).files[0]
    assert before.rows == 3
    assert read_rows(str(fill(tmp_path / "copy", PLACES))).files[0].sha256 == before.sha256
    (folder / "train/cat/1.png").write_bytes(png(200))
    assert read_rows(str(folder)).files[0].sha256 != before.sha256


def test_images_outside_a_classs_folder_are_named(tmp_path):
    with pytest.raises(DataError, match="2 images lie in no class's folder") as caught:
        read_rows(str(fill(tmp_path / "loose", ["a.png", "b.png", "cat/c.png"])))
    assert caught.value.problems[0].where.endswith("a.png")


def test_a_folder_without_images_is_no_data(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="a directory, not a file"):
        read_rows(str(tmp_path / "empty"))


def test_a_folder_that_leads_into_itself_is_walked_once(tmp_path):
    root = fill(tmp_path / "pets", ["cat/1.png", "dog/2.png"])
    (root / "cat/again").symlink_to(root)
    assert labels(read_rows(str(root))) == ["cat", "dog"]


def test_a_class_may_be_a_link(tmp_path):
    root = fill(tmp_path / "pets", ["cat/1.png"])
    (root / "dog").symlink_to(fill(tmp_path / "elsewhere", ["2.png"]))
    assert labels(read_rows(str(root))) == ["cat", "dog"]


def test_images_are_not_streamed_as_rows(folder):
    with pytest.raises(DataError, match="images is not streamed"):
        RowStream(str(folder))
