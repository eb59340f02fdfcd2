"""What turns images into the numbers that a base model reads: its own image processor, checked against its config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from peftcli.base.calls import explained, quiet
from peftcli.errors import BaseModelError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from peftcli.base.anatomy import Anatomy
    from peftcli.base.source import Source

_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_MODES = {1: "L", 3: "RGB"}  # Pillow's names, by the number of channels
_PROBES = ((48, 32), (32, 48))  # wide and high: whatever comes in, images of one size must come out


class ImageReader:
    """An image processor of transformers.

    Attributes:
        mode: Pillow's name of the colours that it wants.
        tokens: How many patches the network cuts an image into.
    """

    def __init__(self, processor: Any, *, mode: str, tokens: int) -> None:  # noqa: ANN401  # a class of transformers
        self._processor = processor
        self.mode = mode
        self.tokens = tokens

    def __call__(self, images: Sequence[Image]) -> Tensor:
        """Return the pixels of images. Shapes: (images, channels, height, width)."""
        pixels: Tensor = self._processor(images=list(images), return_tensors="pt")["pixel_values"]
        return pixels


def load_image_reader(source: Source, anatomy: Anatomy) -> ImageReader:
    """Return what reads images for a vision encoder.

    Raises:
        BaseModelError: There is no image processor, or its images are not of the size that the network reads.
    """
    from transformers import AutoImageProcessor

    where = str(source.folder)
    if not any((source.folder / name).is_file() for name in _PROCESSORS):
        # How pixels were scaled in pretraining cannot be guessed, and a wrong guess only makes everything worse.
        hint = "Put the model's own there: it says how images are scaled and normalised."
        raise BaseModelError(f"there is no {_PROCESSORS[0]}", where=where, hint=hint)
    values = anatomy.values
    channels, height, width = values["channels"], values["image"], values["image_width"]
    if channels not in _MODES:
        raise BaseModelError(f"reads images of {channels} channels", where=where, hint="Choose one of 1 or 3 channels.")
    with quiet(), explained(source.label):
        # By Pillow on every machine: what torchvision makes of an image differs a little.
        processor = AutoImageProcessor.from_pretrained(
            source.folder, backend="pil", trust_remote_code=False, local_files_only=True
        )
        reader = ImageReader(
            processor,
            mode=_MODES[channels],
            tokens=(height // values["patch"]) * (width // values["patch_width"]),
        )
        found = [_shape(reader, size) for size in _PROBES]
    expected = (channels, height, width)
    if wrong := next((shape for shape in found if shape != expected), None):
        raise BaseModelError(
            f"the image processor makes {_named(wrong)}, but the base model reads {_named(expected)}",
            where=where,
            hint="Use the preprocessor_config.json that belongs to the base model.",
        )
    return reader


def _shape(reader: ImageReader, size: tuple[int, int]) -> tuple[int, ...]:
    from PIL import Image

    return tuple(reader([Image.new(reader.mode, size)]).shape[1:])


def _named(shape: tuple[int, ...]) -> str:
    return f"images of {' x '.join(map(str, shape))} (channels, height, width)"
