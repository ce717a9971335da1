"""Pictures and masks that a user gives, read into what sampling takes."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sdmobile.basics.untrusted import read_bounded
from sdmobile.errors import UnsupportedError, UsageError
from sdmobile.families.component import Role
from sdmobile.families.edit import Edit

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray
    from PIL import Image

    from sdmobile.families.family import Family
    from sdmobile.formats.bundle.contracts import Geometry

IMAGE_TO_IMAGE_STRENGTH = 0.8
"""Diffusers' default; inpainting has 1."""
_MOST_BYTES, _MOST_SIDE = 256 << 20, 8192
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_SIXTEEN_BITS = 65535
_ASPECT = 0.01  # by which ratios of sides may differ: a picture scaled to whole pixels


@dataclass(frozen=True)
class EditFiles:
    """What a user says about the picture to start from.

    Args:
        image: a picture file, None to draw a new picture.
        mask: a picture file, white where it is repainted.
        strength: share of the steps that are run; None for 1 with an inpainting model, else 0.8.
    """

    image: Path | None = None
    mask: Path | None = None
    strength: float | None = None

    def __post_init__(self) -> None:
        if self.strength is not None and not 0 < self.strength <= 1:
            raise UsageError("the strength must be a number above 0 and at most 1", self.strength)
        if self.image is None and self.mask is not None:
            raise UsageError("a mask needs the picture that it belongs to", self.mask, "Add --image")
        if self.image is None and self.strength is not None:
            raise UsageError("a strength says how much of a picture is changed", self.strength, "Add --image")

    def read(self, family: Family, geometry: Geometry, components: Collection[str]) -> Edit | None:
        """Reads the files for a model; None where there is no picture.

        Args:
            family: of the model.
            geometry: the sizes of its pictures.
            components: that can be run.

        Raises:
            UsageError: a file cannot be read or does not fit, or the model needs what is not given.
            UnsupportedError: the model takes no mask, or its image encoder is missing.
        """
        if family.takes_mask and (self.image is None or self.mask is None):
            raise UsageError(f"{family.title} needs a picture and a mask", "one is missing", "Give --image and --mask")
        if family.takes_picture and self.image is None:
            raise UsageError(f"{family.title} needs a picture to change", "none was given", "Give --image")
        if family.takes_picture and not family.takes_mask and self.strength not in (None, 1):
            raise UsageError(
                f"{family.title} starts from noise alone: it has no strength",
                f"{self.strength:g}",
                "Leave it out; --image-guidance says how near to the picture it stays",
            )
        if self.image is None:
            return None
        if self.mask is not None and not family.takes_mask:
            raise UnsupportedError(
                "a mask is for inpainting models, whose UNet takes it",
                family.title,
                "Leave --mask out to change the whole picture, or use an inpainting checkpoint",
            )
        missing = [part.name for part in family.of_role(Role.IMAGE_ENCODER) if part.name not in components]
        if missing:
            raise UnsupportedError("a picture to start from needs the image encoder", missing[0], "Export it too")
        usual = 1.0 if family.takes_picture else IMAGE_TO_IMAGE_STRENGTH
        size = geometry.image_width, geometry.image_height
        return Edit(
            read_image(self.image, size),
            None if self.mask is None else read_mask(self.mask, size),
            usual if self.strength is None else self.strength,
        )

    def texts(self, edit: Edit | None) -> dict[str, str]:
        """Returns what a picture's text tells of them."""
        if edit is None or self.image is None:
            return {}
        mask = {} if self.mask is None else {"mask": self.mask.name}
        return {"image": self.image.name, **mask, "strength": f"{edit.strength:g}", "edit_hash": edit.key}


def read_pixels(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Returns a picture as uint8 [H, W, 3]; as `read_image`."""
    return np.asarray(_opened(path, size, "RGB"))


def read_image(path: Path, size: tuple[int, int]) -> NDArray[np.float32]:
    """Returns a picture as float32 [1, 3, H, W] in [-1, 1], scaled to a size of the same proportions.

    Args:
        path: a PNG, JPEG, WebP or BMP file.
        size: width and height in pixels.

    Raises:
        UsageError: it cannot be read, is too large or has other proportions.
    """
    pixels = read_pixels(path, size).astype(np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None] / np.float32(127.5) - np.float32(1))


def read_mask(path: Path, size: tuple[int, int]) -> NDArray[np.float32]:
    """Returns a mask as float32 [1, 1, H, W], 1 where the picture is lighter than middle grey; as `read_image`.

    Raises:
        UsageError: also where it is black everywhere.
    """
    mask = (np.asarray(_opened(path, size, "L"), np.float32) / 255 >= 0.5).astype(np.float32)[None, None]
    if not mask.any():
        raise UsageError("a mask must be white where the picture is repainted", f"{path} is black everywhere")
    return mask


def _opened(path: Path, size: tuple[int, int], mode: str) -> Image.Image:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        picture = Image.open(io.BytesIO(read_bounded(path, _MOST_BYTES)), formats=_FORMATS)
        if max(picture.size) > _MOST_SIDE:  # told by the header; no pixel is unpacked yet
            raise UsageError(
                f"a picture has at most {_MOST_SIDE} pixels along a side", f"{path}: {_shown(picture.size)}"
            )
        picture = _eight_bits(ImageOps.exif_transpose(picture), path).convert(mode)
    except UsageError:
        raise
    except UnidentifiedImageError as error:  # its own words name an object in memory
        raise UsageError(f"a picture must be one of {', '.join(_FORMATS)}", path) from error
    except Exception as error:  # whatever a decoder makes of damaged files
        text = f"{path}: {type(error).__name__}: {error}".splitlines()[0][:300]
        raise UsageError(f"a picture must be a readable file: {', '.join(_FORMATS)}", text) from error
    width, height = picture.size
    if abs(width * size[1] / (height * size[0]) - 1) > _ASPECT:
        raise UsageError(
            f"a picture must have the proportions of the model's, {_shown(size)}",
            f"{path}: {_shown(picture.size)}",
            "Cut it to them first",
        )
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)


def _eight_bits(picture: Image.Image, path: Path) -> Image.Image:
    """Returns a picture of 16-bit grey values, as depth maps have them, scaled to 8 bits; Pillow would cut them off."""
    from PIL import Image

    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > _SIXTEEN_BITS:
            raise UsageError("grey values of a picture must have 8 or 16 bits", f"{path}: up to {values.max()}")
        return Image.fromarray((values * 255 // _SIXTEEN_BITS).astype(np.uint8))
    if picture.mode == "F":
        raise UsageError("a picture must have 8 or 16 bits per value", f"{path}: floating-point numbers")
    return picture


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"
