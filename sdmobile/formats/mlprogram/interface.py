"""What an app sees of a function: names, element types and the shapes that an input may have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sdmobile.formats.mlprogram.errors import InputError, PackageError
from sdmobile.formats.mlprogram.types import ARRAY_TYPES, NamedType


@dataclass(frozen=True)
class Feature:
    """One described input or output.

    Args:
        name: its name.
        dtype: element type.
        shape: the shape, or the default among several; () if the file gives none.
        enumerated: the shapes allowed besides, if they are listed.
        ranges: smallest and largest size of each axis, None for no limit, if they are given as ranges.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    enumerated: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[tuple[int, int | None], ...] = ()

    @property
    def flexible(self) -> bool:
        """Whether more than one shape is allowed."""
        return bool(self.enumerated or self.ranges)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises InputError unless a flexible input may have this shape."""
        if self.enumerated and shape not in (self.shape, *self.enumerated):
            allowed = ", ".join(str(list(each)) for each in self.enumerated)
            raise InputError(f"Input '{self.name}' must have one of the listed shapes", list(shape), f"Give {allowed}")
        if self.ranges and not self._in_ranges(shape):
            limits = ", ".join(f"{low} to {'any' if high is None else high}" for low, high in self.ranges)
            raise InputError(f"Input '{self.name}' must have sizes in their ranges", list(shape), f"Give {limits}")

    def _in_ranges(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == len(self.ranges) and all(
            low <= size and (high is None or size <= high) for size, (low, high) in zip(shape, self.ranges, strict=True)
        )


def feature(message: dict[str, Any]) -> Feature:
    """Builds a feature from a decoded FeatureDescription message."""
    array = message.get("type", {}).get("multiArrayType", {})
    listed = array.get("enumeratedShapes", {}).get("shapes", [])
    ranges = array.get("shapeRange", {}).get("sizeRanges", [])
    return Feature(
        message.get("name", ""),
        ARRAY_TYPES.get(array.get("dataType", 0), "unknown"),
        tuple(array.get("shape", ())),
        tuple(tuple(each.get("shape", ())) for each in listed),
        tuple((each.get("lowerBound", 0), _upper(each.get("upperBound", 0))) for each in ranges),
    )


def _upper(bound: int) -> int | None:
    """Returns an upper bound; the format writes "no limit" as a negative number."""
    return None if bound < 0 else bound


def check(features: tuple[Feature, ...], values: tuple[NamedType, ...]) -> None:
    """Checks that the description, which the app sees, agrees with the program.

    Raises:
        PackageError: a name, element type or shape differs.
    """
    described = {item.name: item for item in features}
    for value in values:
        feature = described.pop(value.name, Feature(value.name, "missing"))
        # A described scalar has the shape (1), and outputs of older files are described without a shape.
        shape = () if feature.shape == (1,) and not value.type.shape else feature.shape
        if feature.dtype != value.type.dtype or (shape and not value.type.fits(shape)):
            raise PackageError(
                f"The description of '{value.name}' must agree with the program",
                f"{feature.dtype}{list(feature.shape)} described, {value.type} computed",
                "Export the model again",
            )
    if described:
        raise PackageError("The program must have every described value", sorted(described), "Export the model again")
