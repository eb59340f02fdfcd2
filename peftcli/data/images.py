"""Images as they are stored: checked when they are found, decoded when a batch needs them."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from peftcli.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
"""How the names of image files end."""
# Others that Pillow knows are no photographs, or start a program to be read.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_MOST_PIXELS = 2**26  # 8192 x 8192: decoded, a quarter of a gigabyte
_MOST_NARROW = 100  # sides; an image processor scales the shorter one to the network's size, and the other with it
_ORIENTATION = 0x0112
# What Pillow raises at bytes that are damaged.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError, AttributeError, OverflowError)
_BROKEN_INSIDE = (struct.error, zlib.error, ZeroDivisionError, AssertionError, NotImplementedError, RuntimeError)


class ImageReader(Protocol):
    """What turns images into the numbers that one base model reads."""

    @property
    def mode(self) -> str:
        """Pillow's name of the colours that it wants: RGB, or L for grey."""

    @property
    def tokens(self) -> int:
        """How many patches the network cuts an image into."""

    def __call__(self, images: Sequence[Image]) -> Tensor:
        """Return the pixels of images. Shapes: (images, channels, height, width)."""


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image in its file, or as the bytes of one.

    Attributes:
        content: The file, or the bytes.
        where: What complaints call it.
    """

    content: Path | bytes
    where: str

    def check(self) -> tuple[int, int]:
        """Return width and height, once it is known that the image can be decoded.

        PNG has checksums, and a JPEG is decoded at an eighth of its size: that is cheaper than to decode it, and finds
        what was cut short.

        Raises:
            DataError: It is no image, is damaged or cut short, or too large to be decoded.
        """
        with self._opened() as image:
            width, height = image.size
            if image.format == "PNG":
                image.verify()
            elif image.format in ("JPEG", "MPO"):  # MPO: what some cameras add to a JPEG
                image.draft(image.mode, (1, 1))
                image.load()
                image.getexif().get(_ORIENTATION)
            else:
                _eight_bits(image, self.where)
        return width, height

    def pixels(self, mode: str) -> Image:
        """Return the image upright and in the colours of ``mode``.

        Of a file with several pictures, the first; what is transparent shows white; of 16 bits, the higher 8.

        Raises:
            DataError: It cannot be decoded.
        """
        from PIL import Image, ImageOps

        with self._opened() as stored:
            image = _eight_bits(ImageOps.exif_transpose(stored), self.where)
            if image.has_transparency_data:
                shown = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown)
            return image.convert(mode)

    def digest(self) -> str:
        """Return the sha256 of the stored bytes.

        Raises:
            DataError: The file cannot be read.
        """
        if isinstance(self.content, bytes):
            return hashlib.sha256(self.content).hexdigest()
        try:
            about = self.content.stat()
            return _digest(self.content, about.st_size, about.st_mtime_ns)
        except OSError as error:
            raise DataError(f"the image cannot be read: {error.strerror}", where=self.where) from None

    @contextmanager
    def _opened(self) -> Iterator[Image]:
        from PIL import Image, UnidentifiedImageError

        bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
        source = io.BytesIO(self.content) if isinstance(self.content, bytes) else self.content
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd but harmless metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            try:
                with Image.open(source, formats=_FORMATS) as image:
                    _check_size(image.size, self.where)
                    yield image
            except UnidentifiedImageError:
                hint = f"Known are {', '.join(_FORMATS)}."
                raise DataError("not an image that can be read", where=self.where, hint=hint) from None
            except bombs as error:
                raise DataError(f"the image is too large: {error}", where=self.where) from None
            except (*_BROKEN, *_BROKEN_INSIDE) as error:
                reason = (getattr(error, "strerror", None) or str(error)).splitlines()[:1] or [type(error).__name__]
                raise DataError(f"the image cannot be read: {reason[0].rstrip('.')}", where=self.where) from None


@cache
def _digest(path: Path, size: int, changed: int) -> str:
    """Return the sha256 of a file: size and time of change only tell a changed file from what is remembered."""
    del size, changed
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_size(size: tuple[int, int], where: str) -> None:
    """Refuse a picture that would fill the memory once it is decoded or scaled.

    Raises:
        DataError: It has too many pixels, or is much longer than wide.
    """
    width, height = size
    if width * height > _MOST_PIXELS:
        what = f"the image has {width:,} x {height:,} pixels, more than {_MOST_PIXELS:,}"
        raise DataError(what, where=where, hint="Scale it down first: the network sees far fewer.")
    if max(size) > _MOST_NARROW * min(size):
        raise DataError(
            f"the image has {width:,} x {height:,} pixels: it is too narrow",
            where=where,
            hint=f"One side may be {_MOST_NARROW} times as long as the other.",
        )


def _eight_bits(image: Image, where: str) -> Image:
    """Return the image with 8 bits per channel: Pillow itself would make white of everything above 255.

    Raises:
        DataError: Its numbers do not say what is white.
    """
    if image.mode != "F" and not image.mode.startswith("I"):
        image.load()
        return image
    import numpy as np
    from PIL.Image import fromarray

    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
        raise DataError(
            "the image holds 32-bit numbers, which do not say what is black and what is white",
            where=where,
            hint="Save it with 8 or 16 bits per channel.",
        )
    return fromarray((values >> 8).astype(np.uint8))
