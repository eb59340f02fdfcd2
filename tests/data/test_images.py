"""Every kind of image becomes eight bits of the wanted colours, and what cannot is named before a run begins."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from peftcli.data.images import StoredImage
from peftcli.errors import DataError


def stored(image, kind="PNG", **settings):
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return StoredImage(file.getvalue(), "a.jsonl:1")


def pixel(image, mode="RGB"):
    image.check()
    return image.pixels(mode).getpixel((0, 0))


def grey16(value, kind="PNG"):
    return stored(Image.fromarray(np.full((2, 2), value, dtype=np.uint16)), kind)


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (stored(Image.new("RGB", (2, 3), (10, 20, 30))), (10, 20, 30)),
        (stored(Image.new("L", (2, 3), 77)), (77, 77, 77)),
        (stored(Image.new("1", (2, 3), 1)), (255, 255, 255)),
        (stored(Image.new("P", (2, 3), 0)), (0, 0, 0)),
        (stored(Image.new("RGBA", (2, 3), (10, 20, 30, 255))), (10, 20, 30)),
        (stored(Image.new("RGBA", (2, 3), (10, 20, 30, 0))), (255, 255, 255)),
        (stored(Image.new("LA", (2, 3), (40, 0))), (255, 255, 255)),
        (stored(Image.new("CMYK", (2, 3), (0, 0, 0, 255)), "TIFF"), (0, 0, 0)),
        (stored(Image.new("RGB", (2, 3), (10, 20, 30)), "BMP"), (10, 20, 30)),
        (stored(Image.new("RGB", (2, 3), (10, 20, 30)), "PPM"), (10, 20, 30)),
        (stored(Image.new("RGB", (2, 3), (10, 20, 30)), "WEBP", lossless=True), (10, 20, 30)),
        (grey16(0x4080), (0x40, 0x40, 0x40)),
        (grey16(0xFFFF), (255, 255, 255)),
        (grey16(0x0100, "TIFF"), (1, 1, 1)),
    ],
)
def test_every_kind_of_pixel_becomes_a_colour(image, colour):
    assert pixel(image) == colour
    assert pixel(image, "L") == Image.new("RGB", (1, 1), colour).convert("L").getpixel((0, 0))


def test_a_transparent_colour_of_a_palette_shows_white():
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 9, 9, 9])
    assert pixel(stored(image, transparency=1)) == (255, 255, 255)


def test_an_inverted_jpeg_of_four_inks_is_not_a_negative():
    assert min(pixel(stored(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG"))) > 250


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_image_is_turned_as_the_camera_says(kind):
    image = Image.new("RGB", (16, 8), "black")
    image.paste("white", (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    found = stored(image, kind, exif=exif)
    assert found.check() == (16, 8)
    turned = found.pixels("L")
    assert turned.size == (8, 16)
    assert turned.getpixel((4, 2)) > 250 > 5 > turned.getpixel((4, 14))


def test_only_the_first_picture_of_a_film_counts():
    film = stored(Image.new("L", (4, 4), 10), "GIF", save_all=True, append_images=[Image.new("L", (4, 4), 200)])
    assert pixel(film) == (10, 10, 10)


def test_numbers_that_do_not_say_what_is_white_are_refused():
    for values in (np.full((2, 2), 0.5, np.float32), np.full((2, 2), 10**6, np.int32), np.full((2, 2), -1, np.int32)):
        with pytest.raises(DataError, match="do not say what is black") as caught:
            stored(Image.fromarray(values), "TIFF").check()
        assert caught.value.problems[0].where == "a.jsonl:1"


def noise(kind):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    return stored(Image.fromarray(pixels), kind).content


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "PPM"])
def test_an_image_that_was_cut_short_is_found_before_it_is_needed(kind):
    content = noise(kind)
    for part in (0.95, 0.5, 0.1):
        with pytest.raises(DataError):
            StoredImage(content[: int(len(content) * part)], "a.png").check()


def test_a_flipped_bit_in_a_png_is_found():
    content = bytearray(noise("PNG"))
    content[len(content) // 2] ^= 1
    with pytest.raises(DataError, match="the image cannot be read"):
        StoredImage(bytes(content), "a.png").check()


@pytest.mark.parametrize(
    "content", [b"", b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", b"\x89PNG"]
)
def test_what_is_no_image_is_refused(content):
    with pytest.raises(DataError):
        StoredImage(content, "a.png").check()


def _png_that_says(width, height):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(60_000, 60_000), (9000, 9000), (30_000, 30_000), (1, 1000)])
def test_a_bomb_is_not_decoded(size):
    bomb = StoredImage(_png_that_says(*size), "a.png")
    tracemalloc.start()
    for use in (bomb.check, lambda: bomb.pixels("RGB")):
        with pytest.raises(DataError, match=r"too large|more than|too narrow"):
            use()
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"])
def test_damage_is_always_a_mistake_of_the_data(kind):
    """Whatever is wrong with the bytes, an image is read or refused with its place."""
    content, generator = noise(kind), np.random.default_rng(1)
    refused = set()
    for _ in range(60):
        damaged = bytearray(content)
        for place in generator.integers(0, min(len(damaged), 600), 4):
            damaged[place] = generator.integers(0, 256)
        image = StoredImage(bytes(damaged), "a.png")
        try:
            image.check()
            assert image.pixels("RGB").mode == "RGB"
        except DataError as error:
            refused.add(error.problems[0].where)
    assert refused <= {"a.png"}


def test_equal_bytes_have_one_digest_wherever_they_lie(tmp_path):
    content = noise("PNG")
    (tmp_path / "a.png").write_bytes(content)
    file = StoredImage(tmp_path / "a.png", "a.png")
    assert file.digest() == StoredImage(content, "b").digest()
    (tmp_path / "a.png").write_bytes(noise("JPEG"))
    assert file.digest() == StoredImage(noise("JPEG"), "b").digest()
    with pytest.raises(DataError, match="cannot be read"):
        StoredImage(tmp_path / "none.png", "none.png").digest()
