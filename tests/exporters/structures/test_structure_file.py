"""A structure's file: what is read is what was written, and nothing that is damaged is read."""

from __future__ import annotations

import json
import lzma
import struct
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmobile.exporters.structures.bindings import Binding
from sdmobile.exporters.structures.structure import (
    Segment,
    StoredFile,
    Structure,
    StructureError,
    from_bytes,
    read_structure,
    to_bytes,
    write_structure,
)

BINDING = Binding(("a.weight",), (("permute", (1, 0)),), "float16")
FILE = StoredFile("unet.tflite", (Segment("bytes", 3), Segment("tensor", 8, BINDING), Segment("bytes", 2)), b"abcde")
FACTS = {"component": "unet", "contract": {"target": "android"}, "tensors": {"a.weight": [2, 2]}}
VERSIONS = {"forms": "1", "lowering": "2", "graph": "3", "libraries": {}}
RECORD = {
    **{name: [] for name in ("chain", "contract", "lowered", "rewrites", "warnings")},
    "component": "unet",
    "file": "unet.tflite",
    "files": ["unet.tflite"],
    "parameters": 4,
}
ORIGIN = {"checkpoint": "x", "device": "y"}
STRUCTURE = Structure(FACTS, {"own": {}, "defaults": {}}, ORIGIN, VERSIONS, RECORD, (FILE,))
DATA = to_bytes(STRUCTURE)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "x.structure"
    assert write_structure(STRUCTURE, path) == path.stat().st_size == len(DATA)
    assert read_structure(path) == STRUCTURE


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
@settings(max_examples=200)
def test_a_changed_byte_is_noticed(position: int, change: int) -> None:
    damaged = bytearray(DATA)
    damaged[position] ^= change
    with pytest.raises(StructureError):
        from_bytes(bytes(damaged), "x")


@given(st.integers(0, len(DATA) - 1))
def test_a_truncated_file_is_noticed(length: int) -> None:
    with pytest.raises(StructureError):
        from_bytes(DATA[:length], "x")


def _forged(header: object, literal: bytes = b"") -> bytes:
    """Returns a file with a right hash, as somebody would write it who means harm."""
    text = json.dumps(header).encode()
    packed = lzma.compress(struct.pack("<Q", len(text)) + text + literal)
    return b"sdmobile structure 1\n" + sha256(packed).digest() + packed


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", "", "a\\..\\b\0"])
def test_a_path_leads_nowhere_else(path: str) -> None:
    record = {**RECORD, "files": [path.partition("/")[0]]}
    forged = to_bytes(replace(STRUCTURE, files=(replace(FILE, path=path),), record=record))
    with pytest.raises(StructureError, match="UntrustedError"):
        from_bytes(forged, "x")


@pytest.mark.parametrize(
    "change",
    [
        {"facts": {**FACTS, "component": 3}},
        {"facts": {**FACTS, "contract": {"target": "mars"}}},
        {"facts": {**FACTS, "tensors": {}}},  # of which one is bound
        {"facts": []},
        {"record": {**RECORD, "files": ["another.tflite"]}},
        {"record": {name: value for name, value in RECORD.items() if name != "parameters"}},
        {"versions": {"forms": "1"}},
        {"versions": 7},
        {"config": {}},
        {"origin": None},
    ],
    ids=str,
)
def test_what_is_taken_for_granted_is_there(change: dict[str, Any]) -> None:
    with pytest.raises(StructureError, match="well-formed"):
        from_bytes(to_bytes(replace(STRUCTURE, **change)), "x")


@pytest.mark.parametrize(
    "header",
    [
        [],
        {},
        {"files": 3},
        {"files": [], "facts": {}, "config": {}, "origin": {}, "versions": {}},
        {
            "facts": {},
            "config": {},
            "origin": {},
            "versions": {},
            "record": {},
            "files": [{"path": "a", "mode": 420, "metadata": {}, "literal": 4, "segments": [["bytes", -4]]}],
        },
    ],
)
def test_a_forged_header_is_an_error_of_its_own_kind(header: object) -> None:
    with pytest.raises(StructureError):
        from_bytes(_forged(header, b"abcd"), "x")


def test_what_claims_to_be_huge_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdmobile.exporters.structures.structure._MOST_BYTES", 1 << 20)
    packed = lzma.compress(bytes(2 << 20))
    with pytest.raises(StructureError, match="more than"):
        from_bytes(b"sdmobile structure 1\n" + sha256(packed).digest() + packed, "x")
