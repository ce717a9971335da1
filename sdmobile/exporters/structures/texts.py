"""The texts in a Core ML model that name the checkpoint, written as protocol buffers write them.

Model.proto of coremltools: message Model { ModelDescription description = 2; }, ModelDescription { Metadata metadata =
100; }, Metadata { string shortDescription = 1; versionString = 2; author = 3; license = 4; map<string, string>
userDefined = 100; }. The map is in the order that protocol buffers give it for `formats.mlprogram.write`: by key,
and of two that begin alike the longer one first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdmobile.exporters.lowering import CONVERSION_DATE, Provenance, conversion_date, described

_FIELDS = ("shortDescription", "versionString", "author", "license")
_USER_DEFINED = 100
_METADATA = 100
_DESCRIPTION = 2
_LENGTH_DELIMITED = 2


def texts_for(template: Mapping[str, Any], provenance: Provenance, component: str, summary: str) -> dict[str, Any]:
    """Returns the texts of a file for a checkpoint.

    Args:
        template: those of the file that a structure was made of.
        provenance: of the checkpoint.
        component: canonical name.
        summary: what the component is.
    """
    own = {**template["userDefined"], **provenance.entries(component), CONVERSION_DATE: conversion_date()}
    return {**described(provenance, summary), "userDefined": own}


def metadata_field(texts: Mapping[str, Any]) -> bytes:
    """Returns texts as the metadata field of a description, its tag and length included."""
    parts = [_text(number, texts[name]) for number, name in enumerate(_FIELDS, start=1) if texts.get(name)]
    for key in sorted(texts["userDefined"], key=lambda key: key.encode() + b"\xff"):
        parts.append(_framed(_USER_DEFINED, _text(1, key) + _text(2, texts["userDefined"][key])))
    return _framed(_METADATA, b"".join(parts))


def cut_metadata(content: bytes) -> tuple[int, int, int, int, dict[str, Any]]:
    """Finds the metadata of a serialised Model.

    Returns:
        Where the length of the description is, where the description begins, where its metadata begin and end, and the
        texts.

    Raises:
        ValueError: it has none, or they are not the description's last field.
    """
    position = 0
    while position < len(content):
        tag, after = varint(content, position)
        if tag == _DESCRIPTION << 3 | _LENGTH_DELIMITED:
            size, begin = varint(content, after)
            start, end = _last_field(content, begin, begin + size)
            return after, begin, start, end, _parsed(content, start)
        position = _skipped(content, tag, after)
    raise ValueError("the model has no description")


def _last_field(content: bytes, position: int, end: int) -> tuple[int, int]:
    while position < end:
        tag, after = varint(content, position)
        following = _skipped(content, tag, after)
        if tag == _METADATA << 3 | _LENGTH_DELIMITED:
            if following != end:
                raise ValueError("the metadata are not the last field of the description")
            return position, end
        position = following
    raise ValueError("the description has no metadata")


def _parsed(content: bytes, start: int) -> dict[str, Any]:
    _, after = varint(content, start)
    size, position = varint(content, after)
    texts: dict[str, Any] = {"userDefined": {}}
    end = position + size
    while position < end:
        tag, after = varint(content, position)
        length, begin = varint(content, after)
        position = begin + length
        if tag >> 3 == _USER_DEFINED:
            _, place = varint(content, begin)
            key_size, place = varint(content, place)
            key = content[place : place + key_size].decode()
            _, place = varint(content, place + key_size)
            value_size, place = varint(content, place)
            texts["userDefined"][key] = content[place : place + value_size].decode()
        else:
            texts[_FIELDS[(tag >> 3) - 1]] = content[begin:position].decode()
    return texts


def _skipped(content: bytes, tag: int, position: int) -> int:
    kind = tag & 7
    if kind == 0:
        return varint(content, position)[1]
    if kind == _LENGTH_DELIMITED:
        size, begin = varint(content, position)
        return begin + size
    return position + {1: 8, 5: 4}[kind]


def varint(content: bytes, position: int) -> tuple[int, int]:
    """Returns the number at a position, and where it ends."""
    value = shift = 0
    while True:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def varint_bytes(value: int) -> bytes:
    """Returns a number as a varint."""
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _framed(number: int, content: bytes) -> bytes:
    return varint_bytes(number << 3 | _LENGTH_DELIMITED) + varint_bytes(len(content)) + content


def _text(number: int, text: str) -> bytes:
    return _framed(number, text.encode())
