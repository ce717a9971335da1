"""Lets the file of a structure have another name: Apple's package calls a control network's after the user's folder."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdmobile.exporters.structures.structure import Structure


def called(structure: Structure, name: str) -> Structure:
    """Returns a structure whose one model file has a name; nothing in the file itself says what it is called.

    Args:
        structure: of a component in one file; of another, as it is.
        name: of the file or package.
    """
    old = structure.record["file"]
    if old == name or structure.record["chain"]:
        return structure

    def renamed(path: str) -> str:
        head, slash, rest = path.partition("/")
        return (name if head == old else head) + slash + rest

    record = {
        **structure.record,
        "file": name,
        "files": [renamed(path) for path in structure.record["files"]],
        "contract": {**structure.record["contract"], "file_name": name},
    }
    files = tuple(replace(file, path=renamed(file.path)) for file in structure.files)
    return replace(structure, record=record, files=files)
