"""Images in a folder for each class, on disk or in an archive -> rows with an image and a label."""

from __future__ import annotations

import hashlib
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from peftcli.data.complaints import listed
from peftcli.data.images import ENDINGS, StoredImage
from peftcli.data.tables import Row
from peftcli.errors import DataError

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
IMAGE, LABEL = "image", "label"  # the columns of the rows
_SPLITS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
_SPLIT_NAMES = {name for names in _SPLITS.values() for name in names}
_MOST_BYTES = 2**31  # of an archive's images, which all lie in memory as they are stored


def holds_images(path: Path) -> bool:
    """Return whether ``path`` is a folder with images somewhere in it, or an archive."""
    if path.is_dir():
        return next(_walk(path), None) is not None
    return path.name.lower().endswith(ARCHIVES)


def image_rows(path: Path, name: str, split: str) -> tuple[list[Row], str]:
    """Return the rows of a folder or an archive, and the sha256 of what was read.

    It holds ``class/*.png``, at any depth below the class, or ``split/class/*.png``, of which one split is read.

    Args:
        path: A folder or an archive for which ``holds_images`` is true.
        name: What complaints call it.
        split: train, validation or test.

    Raises:
        DataError: It cannot be read, images lie in no class's folder, or there is no such split.
    """
    if path.is_dir():
        return _folder_rows(path, name, split)
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        read = _zip_rows if path.name.lower().endswith(".zip") else _tar_rows
        return read(path, name, split), digest
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"not a readable archive: {error}", where=name, hint="Was it cut short?") from None
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror or error}", where=name) from None


def _folder_rows(path: Path, name: str, split: str) -> tuple[list[Row], str]:
    classes = _classes({place: place.parts for place in sorted(_walk(path))}, name, split)
    digest, rows = hashlib.sha256(), []
    for place, label in classes.items():
        file = (path / place).absolute()
        image = StoredImage(file, f"{name}/{place}")
        digest.update(f"{place}\0{image.digest()}\n".encode())
        rows.append(Row({IMAGE: str(file), LABEL: label}, image.where))
    return rows, digest.hexdigest()


def _walk(folder: Path) -> Iterator[PurePosixPath]:
    """Yield the images below ``folder``, each folder once however it is linked."""
    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        about = Path(parent).stat()
        if (about.st_dev, about.st_ino) in seen:
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        folders[:] = [one for one in folders if not one.startswith(".")]
        inside = PurePosixPath(Path(parent).relative_to(folder))
        yield from (inside / one for one in names if _is_image(PurePosixPath(one)))


def _is_image(place: PurePosixPath) -> bool:
    return place.suffix.lower() in ENDINGS and not any(part.startswith(".") for part in place.parts)


def _tar_rows(path: Path, name: str, split: str) -> list[Row]:
    with tarfile.open(path) as archive:
        members = {place: one for one in archive if one.isreg() and _is_image(place := PurePosixPath(one.name))}

        def read(place: PurePosixPath) -> bytes:
            file = archive.extractfile(members[place])
            assert file is not None, "a regular file"
            return file.read()

        return _archive_rows({place: one.size for place, one in members.items()}, read, name, split)


def _zip_rows(path: Path, name: str, split: str) -> list[Row]:
    with zipfile.ZipFile(path) as archive:
        members = {place: one for one in archive.infolist() if _is_image(place := PurePosixPath(one.filename))}
        sizes = {place: one.file_size for place, one in members.items()}
        return _archive_rows(sizes, lambda place: archive.read(members[place]), name, split)


def _archive_rows(
    sizes: Mapping[PurePosixPath, int], read: Callable[[PurePosixPath], bytes], name: str, split: str
) -> list[Row]:
    """Return the rows of an archive, in its own order: a compressed one can only be read from front to back."""
    classes = _classes(_without_the_folder_around(sizes), name, split)
    size = sum(sizes[place] for place in classes)
    if size > _MOST_BYTES:
        what = f"the archive holds {size / 2**30:,.1f} GiB of images, which would all lie in memory"
        raise DataError(what, where=name, hint="Unpack it, and name the folder.")
    rows = []
    for place, label in classes.items():
        stored = {"bytes": read(place), "path": str(place)}
        rows.append(Row({IMAGE: stored, LABEL: label}, f"{name}/{place}"))
    return rows


def _without_the_folder_around(places: Iterable[PurePosixPath]) -> dict[PurePosixPath, tuple[str, ...]]:
    """Return the parts of all paths, without a folder that everything in an archive lies in."""
    found = {place: place.parts for place in places}
    while (
        len(tops := {parts[0] for parts in found.values()}) == 1
        and not tops & _SPLIT_NAMES
        and all(len(parts) > 2 for parts in found.values())
    ):
        found = {place: parts[1:] for place, parts in found.items()}
    return found


def _classes(places: Mapping[PurePosixPath, tuple[str, ...]], name: str, split: str) -> dict[PurePosixPath, str]:
    """Return the images of a split with their classes.

    Raises:
        DataError: There is no such split, or images lie in no class's folder.
    """
    tops = {parts[0] for parts in places.values()}
    if tops <= _SPLIT_NAMES and all(len(parts) > 2 for parts in places.values()):
        if not tops & set(_SPLITS[split]):
            raise DataError(f"there are no {split} images", where=name, hint=f"There is {listed(sorted(tops))}.")
        places = {place: parts[1:] for place, parts in places.items() if parts[0] in _SPLITS[split]}
    if outside := [f"{name}/{place}" for place, parts in places.items() if len(parts) < 2]:
        raise DataError(
            f"{len(outside)} image{'s lie' if len(outside) > 1 else ' lies'} in no class's folder",
            where=outside[0],
            hint="Put every image into a folder that is called as its class, or name a file with rows.",
        )
    if not places:
        raise DataError("there are no images", where=name, hint=f"Images are called {listed(ENDINGS)}.")
    return {place: parts[0] for place, parts in places.items()}
