"""The tables of a `.tflite` file, read field by field: FlatBuffers' layout, and the schema that says what is where.

    table    int32 back to its vtable, then the fields
    vtable   uint16 sizes of itself and of the table, then uint16 places of the fields, 0 for one that has its default
    vector   uint32 length, then the elements; strings, tables and vectors are uint32 places ahead of where they stand

Source: https://flatbuffers.dev/internals; the schema is ai-edge-litert's (`schema_source`).
"""

from __future__ import annotations

import json
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

SCHEMA = Path(__file__).resolve().parents[2] / "data" / "tflite_schema.json"


@lru_cache(maxsize=1)
def schema() -> dict[str, Any]:
    """Returns enumerations, unions and tables; of a table, by field: slot, kind and the default of a number."""
    return json.loads(SCHEMA.read_text("utf-8"))


def numbers_of(enumeration: str) -> dict[str, int]:
    """Returns the values of an enumeration by name."""
    return schema()["enumerations"][enumeration]


class Record:
    """One table of a file; its fields are attributes, in the types of FlatBuffers' object API.

    Numbers, bytes for strings, NumPy arrays for vectors of numbers, lists for other vectors, records; None for what a
    file does not hold. Reading what is damaged raises struct.error, ValueError or KeyError.
    """

    __slots__ = ("_buffer", "_fields", "_position", "_vtable", "_vtable_size")

    def __init__(self, table: str, buffer: memoryview, position: int) -> None:
        self._fields: dict[str, list[Any]] = schema()["tables"][table]
        self._buffer, self._position = buffer, position
        self._vtable = position - self._number("<i", position)
        self._vtable_size = self._number("<H", self._vtable)

    @classmethod
    def root(cls, table: str, buffer: memoryview) -> Record:
        """Returns the table that a whole file is."""
        return cls(table, buffer, struct.unpack_from("<I", buffer)[0])

    def __getattr__(self, name: str) -> Any:
        """Returns a field."""
        if name.startswith("_") or name not in self._fields:
            raise AttributeError(name)
        slot, kind, *default = self._fields[name]
        place = self.place(name)
        if place is None:
            return default[0] if default else None
        if default:
            value = self._number(_FORMATS[kind], place)
            return bool(value) if kind == "bool" else value
        if kind[0] == "|":
            number = self._number("<B", self.place_of_slot(slot - 2) or -1)
            table = schema()["unions"][kind[1:]].get(str(number))
            return None if table is None else Record(table, self._buffer, self._ahead(place))
        return self._vector(kind[1:], self._ahead(place)) if kind[0] == "[" else self._one(kind, place)

    def items(self) -> dict[str, Any]:
        """Returns all fields."""
        return {name: getattr(self, name) for name in self._fields}

    def place(self, name: str) -> int | None:
        """Returns where a field stands, None where it has its default."""
        return self.place_of_slot(self._fields[name][0])

    def span(self, name: str) -> tuple[int, int] | None:
        """Returns where the elements of a vector begin, and how many there are; None for none."""
        place = self.place(name)
        return None if place is None else (self._ahead(place) + 4, self._number("<I", self._ahead(place)))

    def place_of_slot(self, slot: int) -> int | None:
        """Returns where the field of a slot of the vtable stands, None where it has its default."""
        if slot >= self._vtable_size:
            return None
        ahead = self._number("<H", self._vtable + slot)
        return self._position + ahead if ahead else None

    def _number(self, form: str, place: int) -> Any:
        if place < 0:
            raise ValueError(f"a place before the file: {place}")
        return struct.unpack_from(form, self._buffer, place)[0]

    def _ahead(self, place: int) -> int:
        return place + self._number("<I", place)

    def _one(self, kind: str, place: int) -> Any:
        """Returns the string or the table that a place points to."""
        start = self._ahead(place)
        if kind != "string":
            return Record(kind[1:], self._buffer, start)
        count = self._number("<I", start)
        text = bytes(self._buffer[start + 4 : start + 4 + count])
        if len(text) != count:
            raise ValueError(f"a string ends at byte {start + 4 + count}")
        return text

    def _vector(self, kind: str, start: int) -> Any:
        count = self._number("<I", start)
        if kind in _FORMATS:
            return np.frombuffer(self._buffer, _FORMATS[kind], count, start + 4)
        if start + 4 + 4 * count > len(self._buffer):
            raise ValueError(f"a vector ends at byte {start + 4 + 4 * count}")
        return [self._one(kind, start + 4 + 4 * index) for index in range(count)]


_FORMATS = {
    "bool": "?",
    "int8": "<b",
    "uint8": "<B",
    "int16": "<h",
    "uint16": "<H",
    "int32": "<i",
    "uint32": "<I",
    "int64": "<q",
    "uint64": "<Q",
    "float32": "<f",
    "float64": "<d",
}
