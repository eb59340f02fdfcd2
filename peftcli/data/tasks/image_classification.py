"""Classification of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from peftcli.data.complaints import SHOWN_PROBLEMS, lines, raise_all
from peftcli.data.examples import Example, Examples
from peftcli.data.images import StoredImage
from peftcli.data.tasks.columns import absent, check_roles, kind, require
from peftcli.data.tasks.labels import OneLabel
from peftcli.errors import DataError, Problem, RecipeError

if TYPE_CHECKING:
    from torch import Tensor

    from peftcli.data.examples import VirtualTokens
    from peftcli.data.images import ImageReader
    from peftcli.data.tables import Row, Table
    from peftcli.data.tasks.task import Outcome
    from peftcli.recipe.recipe import DataSection


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageExample(Example):
    """One row as an image that is not decoded yet, and what decodes it."""

    image: StoredImage
    reader: ImageReader


@dataclass(frozen=True, kw_only=True)
class ImageClassification(OneLabel):
    """One label for each image.

    The columns are ``image`` (default: the file's ``image``, or ``img`` where that is missing) and ``label``. An image
    is the path of a file, relative to the folder of the file with the rows, or an object with ``bytes`` or ``path``,
    as the datasets library writes it into parquet. A folder or an archive of images in a folder for each class needs
    no rows.
    """

    name: ClassVar[str] = "image-classification"
    model_class: ClassVar[str] = "AutoModelForImageClassification"
    reads: ClassVar[Literal["text", "images"]] = "images"
    settings: ClassVar[tuple[str, ...]] = ("labels",)
    inputs: ClassVar[tuple[str, ...]] = ("image",)

    @classmethod
    def from_section(cls, section: DataSection, train: Table) -> Self:
        """Return the task of a recipe; the labels are those it lists, or those of the training rows, sorted."""
        if section.max_length is not None:
            hint = "The base model says how large its images are."
            raise RecipeError(f"data.max_length means nothing for {cls.name}", hint=hint)
        check_roles(section.columns, (*cls.inputs, "label"))
        present = train.columns()
        default = "img" if "image" not in present and "img" in present else "image"
        names = {"image": default, "label": "label", **section.columns}
        require(train, names)
        return cls(column_names=names).with_labels(section.labels, train)

    def problems(self, table: Table) -> list[Problem]:
        """Return what is wrong with the columns, the labels and the places of the images of ``table``."""
        if missing := absent(table, self.column_names):
            return missing
        return [*self._image_problems(table), *self.label_problems(table)]

    def encode(self, table: Table, reader: ImageReader, max_length: int, vocabulary: int | None = None) -> Examples:
        """Return the examples; every image is looked at, and none is kept decoded."""
        del max_length, vocabulary
        raise_all(self.problems(table))
        examples: list[Example] = []
        sizes: list[tuple[int, int]] = []
        broken: list[Problem] = []
        for index, (row, label) in enumerate(zip(table.rows, self.label_numbers(table.rows), strict=True)):
            image = self._image(row)
            try:
                sizes.append(image.check())
            except DataError as error:
                broken.extend(error.problems)
            known = (index, row.where, label)
            examples.append(ImageExample({}, reader.tokens, *known, image=image, reader=reader))
        if len(broken) > SHOWN_PROBLEMS:
            what = f"{len(broken)} images cannot be used, of which the first {SHOWN_PROBLEMS} are shown"
            broken = [*broken[:SHOWN_PROBLEMS], Problem(what=what, where=table.files[0].path)]
        raise_all(broken)
        counts = {"rows": len(table), "truncated": 0, "dropped": 0, "tokens": len(table) * reader.tokens}
        widths, heights = [width for width, _ in sizes], [height for _, height in sizes]
        pixels = {"narrowest": min(widths), "widest": max(widths), "lowest": min(heights), "highest": max(heights)}
        return Examples(examples, {**counts, "supervised": len(table), "longest": reader.tokens, **pixels})

    def collate(self, examples: Sequence[Example], pad: int, virtual: VirtualTokens | None) -> dict[str, Tensor]:
        """Return ``pixel_values`` of shape (batch, channels, height, width), and ``labels`` of shape (batch)."""
        import torch

        assert virtual is None, "an image has no tokens to stand beside"
        images = [example for example in examples if isinstance(example, ImageExample)]
        reader = images[0].reader
        pixels = reader([example.image.pixels(reader.mode) for example in images])
        return {"pixel_values": pixels, "labels": torch.tensor([example.label for example in images])}

    def told(self, examples: Examples) -> str:
        """Return how large the images are."""
        counts = examples.counts
        sides = ((counts["narrowest"], counts["widest"]), (counts["lowest"], counts["highest"]))
        width, height = (f"{low:,}" if low == high else f"{low:,} to {high:,}" for low, high in sides)
        return f"images {width} pixels wide, {height} high, each cut into {counts['longest']:,} patches"

    def describe(self, row: Row, outcome: Outcome) -> dict[str, Any]:
        """Return the image's path, where it has one, its label and the predicted one."""
        value = row.values[self.column_names["image"]]
        path = value if isinstance(value, str) else value.get("path") if isinstance(value, Mapping) else None
        return {"where": row.where, "image": path, **self.named(outcome)}

    def key(self, row: Row) -> str:
        """Return the digest of the image as it is stored: equal for files that repeat it."""
        return self._image(row).digest()

    def _image(self, row: Row) -> StoredImage:
        """Return the image of a row that has no problems."""
        image = _stored(row, self.column_names["image"])
        assert image is not None, f"{row.where} has no image"
        return image

    def _image_problems(self, table: Table) -> list[Problem]:
        column = self.column_names["image"]
        missing: list[str] = []
        others: list[Row] = []
        lost: list[Row] = []
        for row in table.rows:
            value = row.values.get(column)
            image = _stored(row, column)
            if value is None or value == "":
                missing.append(row.where)
            elif image is None:
                others.append(row)
            elif isinstance(image.content, Path) and not _is_file(image.content):
                lost.append(row)
        problems = []
        if missing:
            problems.append(Problem(what=f"column {column!r} has no image in {lines(missing)}", where=missing[0]))
        if others:
            found = kind(others[0].values[column])
            what = f"column {column!r} is {found}, not an image, in {lines([row.where for row in others])}"
            hint = "An image is the path of its file, or an object with bytes."
            problems.append(Problem(what=what, where=others[0].where, hint=hint))
        if lost:
            what = f"column {column!r} names no file in {lines([row.where for row in lost])}"
            hint = f"Looked for {self._image(lost[0]).content!s}: paths are relative to the folder of their rows' file."
            problems.append(Problem(what=what, where=lost[0].where, hint=hint))
        return problems


def _stored(row: Row, column: str) -> StoredImage | None:
    """Return the image that a row names or holds; None where the value is none."""
    value = row.values.get(column)
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return StoredImage(value, row.where)
    if isinstance(value, str) and value:
        return StoredImage(Path(row.where.rpartition(":")[0]).parent / value, row.where)
    return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False
