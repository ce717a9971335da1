"""Decodes protobuf messages by a table of fields, without generated code.

Source: the public description of the protobuf wire format (varint, 64-bit, length-delimited and 32-bit records).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdmobile.errors import UnsupportedError
from sdmobile.formats.mlprogram.errors import PackageError

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_WIRE_OF_KIND = {"float": FIXED32, "double": FIXED64}
_NUMPY_OF_KIND = {"float": "<f4", "double": "<f8"}
_VARINT_KINDS = ("int", "uint", "bool")


@dataclass(frozen=True)
class Field:
    """One field of a message.

    Args:
        name: key in the decoded dictionary.
        kind: "int" (two's complement varint), "uint", "bool", "float", "double", "string", "bytes", "message",
            "map" (string to `message`), "skip" (carries no semantics) or "refuse" (would change the result).
        message: type of a "message" field, or of the values of a "map".
        many: the field is repeated.
    """

    name: str
    kind: str
    message: str = ""
    many: bool = False


Schema = dict[str, dict[int, Field]]


def decode(buffer: memoryview, message: str, schema: Schema) -> dict[str, Any]:
    """Decodes one message into a dictionary that holds the fields present.

    Args:
        buffer: the serialised message.
        message: its type, a key of `schema`.
        schema: field number to field, per message type.

    Returns:
        Field name to value; repeated fields are lists, map fields dictionaries, absent fields have no key.

    Raises:
        PackageError: the bytes are truncated or hold a field that the schema does not know.
        UnsupportedError: a field is present that the evaluator does not implement.
    """
    fields = schema[message]
    result: dict[str, Any] = {}
    position, end = 0, len(buffer)
    while position < end:
        tag, position = _varint(buffer, position, message)
        wire_type = tag & 7
        raw, position = _record(buffer, position, wire_type, message)
        field = fields.get(tag >> 3)
        if field is None:
            raise PackageError(
                "Every field of the model must be one that the evaluator knows",
                f"field {tag >> 3} of message {message}",
                "The file is corrupt or newer than Core ML 9 (iOS 26)",
            )
        if field.kind != "skip":
            _store(result, field, raw, wire_type, message, schema)
    return result


def _store(result: dict[str, Any], field: Field, raw: Any, wire_type: int, message: str, schema: Schema) -> None:
    if field.kind == "refuse":
        raise UnsupportedError(
            "The Core ML evaluator does not read this kind of model",
            f"{message}.{field.name} is set",
            "Export without it",
        )
    if field.many and wire_type == LENGTH and field.kind in (*_VARINT_KINDS, *_WIRE_OF_KIND):
        result.setdefault(field.name, []).extend(_packed(raw, field, message))
        return
    value = _value(raw, field, wire_type, message, schema)
    if field.kind == "map":
        result.setdefault(field.name, {})[value.get("key", "")] = value.get("value", {})
    elif field.many:
        result.setdefault(field.name, []).append(value)
    else:
        result[field.name] = value


def _value(raw: Any, field: Field, wire_type: int, message: str, schema: Schema) -> Any:
    kind = field.kind
    expected = VARINT if kind in _VARINT_KINDS else _WIRE_OF_KIND.get(kind, LENGTH)
    if wire_type != expected:
        raise _corrupt(message, f"{field.name} has wire type {wire_type} instead of {expected}")
    if kind in _VARINT_KINDS:
        return _from_varint(raw, kind)
    if kind == "message":
        return decode(raw, field.message, schema)
    if kind == "map":
        entry = {1: Field("key", "string"), 2: Field("value", "message", field.message)}
        return decode(raw, "entry", {**schema, "entry": entry})
    if kind == "string":
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError as error:
            raise _corrupt(message, f"{field.name} is not UTF-8") from error
    if kind == "bytes":
        return bytes(raw)
    return struct.unpack("<f" if kind == "float" else "<d", raw)[0]


def _packed(raw: memoryview, field: Field, message: str) -> list[Any]:
    if field.kind in _NUMPY_OF_KIND:
        dtype = np.dtype(_NUMPY_OF_KIND[field.kind])
        if len(raw) % dtype.itemsize:
            raise _corrupt(message, f"{field.name} ends inside a number")
        return np.frombuffer(raw, dtype).tolist()
    values, position = [], 0
    while position < len(raw):
        value, position = _varint(raw, position, message)
        values.append(_from_varint(value, field.kind))
    return values


def _from_varint(value: int, kind: str) -> int | bool:
    if kind == "bool":
        return bool(value)
    return value - (1 << 64) if kind == "int" and value >= 1 << 63 else value


def _varint(buffer: memoryview, position: int, message: str) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(buffer) or shift > 63:
            raise _corrupt(message, "it ends inside a number")
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _record(buffer: memoryview, position: int, wire_type: int, message: str) -> tuple[Any, int]:
    if wire_type == VARINT:
        return _varint(buffer, position, message)
    if wire_type == LENGTH:
        size, position = _varint(buffer, position, message)
    elif wire_type in (FIXED32, FIXED64):
        size = 4 if wire_type == FIXED32 else 8
    else:
        raise _corrupt(message, f"it has a record of the unknown wire type {wire_type}")
    if position + size > len(buffer):
        raise _corrupt(message, f"it announces {size} bytes where {len(buffer) - position} are left")
    return buffer[position : position + size], position + size


def _corrupt(message: str, what: str) -> PackageError:
    return PackageError(
        "model.mlmodel must be a complete Core ML protobuf", f"message {message}: {what}", "Export the model again"
    )
