"""What an app sees of a function: names, element types, the shapes that an input may have, images, default values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sdmobile.errors import UnsupportedError
from sdmobile.formats.mlprogram.errors import InputError, PackageError
from sdmobile.formats.mlprogram.types import ARRAY_TYPES, FLOATS, NamedType

COLORS = {10: "GRAYSCALE", 20: "RGB", 30: "BGR", 40: "GRAYSCALE_FLOAT16"}
"""Number in `FeatureTypes.proto` to the layout of a picture."""

_PICTURES = (*FLOATS, "uint8")
_DEFAULTS = ("intDefaultValue", "floatDefaultValue", "doubleDefaultValue")
_EXPORT_AGAIN = "Export the model again"


@dataclass(frozen=True)
class Feature:
    """One described input or output.

    Args:
        name: its name.
        dtype: element type; "image" for a picture, whose tensor may be of any.
        shape: the shape, or the default among several; () if the file gives none.
        enumerated: the shapes allowed besides, if they are listed.
        ranges: smallest and largest size of each axis, None for no limit, if they are given as ranges.
        color: the layout of a picture, one of `COLORS`; its shape is (1, channels, height, width).
        default: what fills an input that is left out; None if it must be given.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    enumerated: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[tuple[int, int | None], ...] = ()
    color: str | None = None
    default: float | None = None

    @property
    def flexible(self) -> bool:
        """Whether more than one shape is allowed."""
        return bool(self.enumerated or self.ranges)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises InputError unless a flexible input may have this shape."""
        if self.enumerated and shape not in (self.shape, *self.enumerated):
            allowed = ", ".join(str(list(each)) for each in self.enumerated)
            what = f"MultiArray Shape ({' x '.join(map(str, shape))}) was not in enumerated set of allowed shapes"
            rule = f"Input '{self.name}' must have one of the listed shapes"
            raise InputError(rule, f"{list(shape)}: {what}", f"Give {allowed}")
        outside = self._outside(shape) if self.ranges else None
        if outside:
            limits = ", ".join(f"{low} to {'any' if high is None else high}" for low, high in self.ranges)
            rule = f"Input '{self.name}' must have sizes in their ranges"
            raise InputError(rule, f"{list(shape)}: {outside}", f"Give {limits}")

    def _outside(self, shape: tuple[int, ...]) -> str | None:
        """Returns which size is out of its range, in Core ML's words, which people search for."""
        if len(shape) != len(self.ranges):
            return f"{len(shape)} sizes for {len(self.ranges)} ranges"
        for axis, (size, (low, high)) in enumerate(zip(shape, self.ranges, strict=True)):
            if size < low or (high is not None and size > high):
                bounds = f"{low}..{'any' if high is None else high}"
                return f"Size ({size}) of dimension ({axis}) is not in allowed range ({bounds})"
        return None


def feature(message: dict[str, Any]) -> Feature:
    """Builds a feature from a decoded FeatureDescription message.

    Raises:
        UnsupportedError: it is neither an array nor a picture.
    """
    name, kind = message.get("name", ""), message.get("type", {})
    if "imageType" in kind:
        return _picture(name, kind["imageType"])
    unread = set(kind) - {"multiArrayType", "isOptional"}
    if unread:
        raise UnsupportedError(
            "The Core ML evaluator takes arrays and pictures and returns these or a class",
            f"'{name}' is described as {', '.join(sorted(unread))}",
            "Export with arrays",
        )
    array = kind.get("multiArrayType", {})
    listed = array.get("enumeratedShapes", {}).get("shapes", [])
    return Feature(
        name,
        ARRAY_TYPES.get(array.get("dataType", 0), "unknown"),
        tuple(array.get("shape", ())),
        tuple(tuple(each.get("shape", ())) for each in listed),
        tuple(_range(each) for each in array.get("shapeRange", {}).get("sizeRanges", [])),
        default=_default(array) if kind.get("isOptional", False) else None,
    )


def state_feature(message: dict[str, Any]) -> Feature:
    """Builds the feature of a state, which is an array, from a decoded FeatureDescription message."""
    array = message.get("type", {}).get("stateType", {}).get("arrayType", {})
    return feature({"name": message.get("name", ""), "type": {"multiArrayType": array}})


def _picture(name: str, image: dict[str, Any]) -> Feature:
    color = COLORS.get(image.get("colorSpace", 0))
    if color is None:
        raise PackageError(f"Picture '{name}' must have a known layout of colours", image.get("colorSpace", 0))
    channels = 1 if color.startswith("GRAYSCALE") else 3
    sizes = image.get("enumeratedSizes", {}).get("sizes", [])
    ranges: tuple[tuple[int, int | None], ...] = ()
    if "imageSizeRange" in image:
        both = (image["imageSizeRange"].get(axis, {}) for axis in ("heightRange", "widthRange"))
        ranges = ((1, 1), (channels, channels), *(_range(each) for each in both))
    return Feature(
        name,
        "image",
        (1, channels, image.get("height", 0), image.get("width", 0)),
        tuple((1, channels, each.get("height", 0), each.get("width", 0)) for each in sizes),
        ranges,
        color,
    )


def _default(array: dict[str, Any]) -> float | None:
    """Returns the value that fills an input that is left out, if the file states one."""
    return next((array[key] for key in _DEFAULTS if key in array), None)


def _range(message: dict[str, Any]) -> tuple[int, int | None]:
    """Returns the bounds of a size; the format writes "no limit" as a negative number."""
    upper = message.get("upperBound", 0)
    return message.get("lowerBound", 0), None if upper < 0 else upper


def check_features(features: Sequence[Feature], values: Sequence[NamedType]) -> None:
    """Checks that the description, which the app sees, agrees with the program.

    Raises:
        PackageError: a name, element type or shape differs.
    """
    described = {item.name: item for item in features}
    for value in values:
        feature = described.get(value.name, Feature(value.name, "missing"))
        # A described scalar has the shape (1), and outputs of older files are described without a shape.
        shape = () if feature.shape == (1,) and not value.type.shape else feature.shape
        same = value.type.dtype in _PICTURES if feature.color else feature.dtype == value.type.dtype
        if not same or (shape and not value.type.fits(shape)):
            raise PackageError(
                f"The description of '{value.name}' must agree with the program",
                f"{feature.dtype}{list(feature.shape)} described, {value.type} computed",
                _EXPORT_AGAIN,
            )
    rest = set(described) - {value.name for value in values}  # one value may be returned twice
    if rest:
        raise PackageError("The program must have every described value", sorted(rest), _EXPORT_AGAIN)
