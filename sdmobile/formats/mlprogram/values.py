"""Constants of a program: given in the program itself or as a position in a weight file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdmobile.errors import UnsupportedError
from sdmobile.formats.mlprogram.blob import unpack_bits
from sdmobile.formats.mlprogram.errors import PackageError
from sdmobile.formats.mlprogram.types import BITS, DATA_TYPES, TensorType

_MAX_ELEMENTS = 1 << 33
_LIST_OF_DTYPE = {
    "bool": "bools",
    "string": "strings",
    "float32": "floats",
    **dict.fromkeys(("int32", "int16", "uint16"), "ints"),
    **dict.fromkeys(("float16", "int8", "uint8", "uint32"), "bytes"),
    **dict.fromkeys(("int4", "uint1", "uint2", "uint3", "uint4", "uint6"), "bytes"),
}
"""The list of a TensorValue that holds an immediate value of each type."""


@dataclass(frozen=True, eq=False)
class Constant:
    """A value known at compile time.

    Args:
        type: its type.
        value: the immediate value; None if it lies in a weight file.
        file: name of the weight file as the program gives it.
        offset: position of the metadata in the weight file, in bytes.
    """

    type: TensorType
    value: np.ndarray | str | None = None
    file: str = ""
    offset: int = 0


def tensor_type(message: dict[str, Any]) -> TensorType:
    """Returns the type in a decoded ValueType message, which must be that of a tensor or of a list of tensors.

    A list is a tensor with its elements along the first axis, of any number: a program may lengthen it.
    """
    if set(message) == {"listType"}:
        element = tensor_type(message["listType"].get("type", {}))
        return TensorType(element.dtype, (None, *element.shape))
    if set(message) != {"tensorType"}:
        raise UnsupportedError("The Core ML evaluator computes with tensors and lists of them", sorted(message))
    tensor = message["tensorType"]
    dtype = DATA_TYPES.get(tensor.get("dataType", 0))
    dimensions = tensor.get("dimensions", [])
    if dtype is None or tensor.get("rank", 0) != len(dimensions):
        raise PackageError("A tensor type must have an element type and as many sizes as its rank", tensor)
    if any(dimension.get("unknown", {}).get("variadic", False) for dimension in dimensions):
        return TensorType(dtype, (None,), any_rank=True)
    shape = tuple(_size(dimension) for dimension in dimensions)
    if any(size is not None and size < 0 for size in shape) or math.prod(size or 1 for size in shape) > _MAX_ELEMENTS:
        raise PackageError(f"A tensor must have at most {_MAX_ELEMENTS} elements", shape, "Export the model again")
    return TensorType(dtype, shape)


def _size(dimension: dict[str, Any]) -> int | None:
    return None if "unknown" in dimension else dimension.get("constant", {}).get("size", 0)


def constant(message: dict[str, Any]) -> Constant:
    """Builds a constant from a decoded Value message.

    Raises:
        PackageError: the value does not fill its type.
        UnsupportedError: the value is not a tensor, or of an element type that is not read.
    """
    type_ = tensor_type(message.get("type", {}))
    if None in type_.shape:
        raise PackageError("A constant must have a fixed shape", type_, "Export the model again")
    if "blobFileValue" in message:
        blob = message["blobFileValue"]
        return Constant(type_, None, blob.get("fileName", ""), blob.get("offset", 0))
    lists = message.get("immediateValue", {}).get("tensor", {})
    field = _LIST_OF_DTYPE.get(type_.dtype)
    if field is None or set(lists) != {field}:
        raise UnsupportedError("The Core ML evaluator does not read an immediate value of this type", type_)
    values = lists[field].get("values", b"" if field == "bytes" else [])
    if field == "strings":
        if len(values) != 1 or type_.shape:
            raise UnsupportedError("The Core ML evaluator reads single strings", f"{len(values)} strings")
        return Constant(type_, values[0])
    array = _from_bytes(values, type_) if field == "bytes" else np.array(values, type_.dtype)
    if array.size != type_.elements:
        raise PackageError("An immediate value must fill its type", f"{array.size} elements for {type_}")
    return Constant(type_, array.reshape(type_.sizes))


def _from_bytes(data: bytes, type_: TensorType) -> np.ndarray:
    bits = BITS.get(type_.dtype)
    if bits is not None:
        raw = np.frombuffer(data, np.uint8)
        if len(raw) != -(-type_.elements * bits // 8):
            raise PackageError("An immediate value must fill its type", f"{len(raw)} bytes for {type_}")
        return unpack_bits(raw, bits, type_.elements, signed=type_.dtype == "int4")
    dtype = np.dtype(type_.dtype).newbyteorder("<")
    if len(data) % dtype.itemsize:
        raise PackageError("An immediate value must consist of whole elements", type_)
    return np.frombuffer(data, dtype).astype(type_.dtype)
