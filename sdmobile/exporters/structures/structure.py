"""A structure: the files of one component without their weights, and where each stored tensor comes from.

    b"sdmobile structure 1\\n" · SHA-256 of the rest · xz( length of the header · header as JSON · literal bytes )

A file is a row of segments: literal bytes, stored tensors, and the texts that name the checkpoint.
"""

from __future__ import annotations

import json
import lzma
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from sdmobile.basics.files import whole_file
from sdmobile.basics.untrusted import UntrustedError, checked_parts
from sdmobile.errors import OutputError, SdmobileError
from sdmobile.exporters.structures.bindings import Binding
from sdmobile.formats.bundle.contracts import TARGETS

SUFFIX = ".structure"
_MAGIC = b"sdmobile structure 1\n"
_DIGEST = 32
_LENGTH = struct.Struct("<Q")
_MOST_BYTES = 1 << 29
"""Of the decompressed content: no structure comes near, and a small file may claim much."""


class StructureError(SdmobileError):
    """A structure is damaged, or is none."""

    exit_code = OutputError.exit_code


@dataclass(frozen=True)
class Segment:
    """A piece of a file.

    Args:
        kind: "bytes", "tensor", "length" (of the description, with its metadata) or "metadata".
        size: bytes of a literal or tensor; for "length", what the description has without metadata.
        binding: of a tensor.
    """

    kind: str
    size: int
    binding: Binding | None = None


@dataclass(frozen=True)
class StoredFile:
    """One file of a component.

    Args:
        path: in the component's folder, such as "unet.tflite".
        segments: in order.
        literal: the bytes of all "bytes" segments, joined.
        metadata: texts of a Core ML model, by field, which a checkpoint's own take the place of.
        mode: its permissions.
    """

    path: str
    segments: tuple[Segment, ...]
    literal: bytes = field(repr=False)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    mode: int = 0o644


@dataclass(frozen=True)
class Structure:
    """The files of one component, and what they fit.

    Args:
        facts: what decides the files, as `keys.facts_of` gives it; the names and shapes of tensors among them.
        config: of the model, with the defaults of its class.
        origin: names of the checkpoint and the device that it was made for first.
        versions: of code and libraries that wrote the files.
        record: of the component, as the manifest keeps it, without what depends on weights.
        files: in the order of the component's hash.
    """

    facts: Mapping[str, Any]
    config: Mapping[str, Any]
    origin: Mapping[str, Any]
    versions: Mapping[str, Any]
    record: Mapping[str, Any]
    files: tuple[StoredFile, ...]

    @property
    def bytes(self) -> int:
        """Size of the files that are written from it, without metadata."""
        return sum(segment.size for file in self.files for segment in file.segments if segment.kind != "length")


def to_bytes(structure: Structure) -> bytes:
    """Returns the content of a structure's file."""
    header = {
        "facts": structure.facts,
        "config": structure.config,
        "origin": structure.origin,
        "versions": structure.versions,
        "record": structure.record,
        "files": [
            {
                "path": file.path,
                "mode": file.mode,
                "metadata": file.metadata,
                "literal": len(file.literal),
                "segments": [_segment_json(segment) for segment in file.segments],
            }
            for file in structure.files
        ],
    }
    text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    content = b"".join([_LENGTH.pack(len(text)), text, *(file.literal for file in structure.files)])
    packed = lzma.compress(content, preset=6 | lzma.PRESET_EXTREME)
    return _MAGIC + sha256(packed).digest() + packed


def _segment_json(segment: Segment) -> list[Any]:
    binding = [] if segment.binding is None else [segment.binding.to_json()]
    return [segment.kind, segment.size, *binding]


def from_bytes(data: bytes, name: str) -> Structure:
    """Returns the structure of a file's content.

    Args:
        data: the content.
        name: of the file, for errors.

    Raises:
        StructureError: it is none, is damaged, or was written by another version.
    """
    start = len(_MAGIC) + _DIGEST
    if not data.startswith(_MAGIC):
        raise StructureError("a structure must be of this version's format", name, "Make it again")
    if sha256(data[start:]).digest() != data[len(_MAGIC) : start]:
        raise StructureError("a structure must have the content that its hash tells", name, "Make it again")
    try:
        content = _decompressed(data[start:])
        (length,) = _LENGTH.unpack_from(content)
        header = json.loads(content[_LENGTH.size : _LENGTH.size + length])
        return _structure(header, content, _LENGTH.size + length)
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        EOFError,
        lzma.LZMAError,
        struct.error,
        SdmobileError,
    ) as error:
        raise StructureError(
            "a structure must be complete and well-formed", f"{name}: {type(error).__name__}: {error}", "Make it again"
        ) from error


def _decompressed(packed: bytes) -> bytes:
    decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ)
    content = decoder.decompress(packed, _MOST_BYTES)
    if not decoder.eof:
        raise ValueError(f"it ends early, or holds more than {_MOST_BYTES} bytes")
    return content


def _structure(header: Mapping[str, Any], content: bytes, position: int) -> Structure:
    files: list[StoredFile] = []
    for entry in header["files"]:
        literal = content[position : position + entry["literal"]]
        position += entry["literal"]
        segments = tuple(_segment(*data) for data in entry["segments"])
        if len(literal) != sum(segment.size for segment in segments if segment.kind == "bytes"):
            raise ValueError(f"{entry['path']}: its segments are not its literal bytes")
        checked_parts(entry["path"])
        files.append(StoredFile(entry["path"], segments, literal, entry["metadata"], entry["mode"] & 0o755))
    if position != len(content):
        raise ValueError("there is more content than its files have")
    facts, config, origin, versions, record = (
        header[name] for name in ("facts", "config", "origin", "versions", "record")
    )
    return _checked(Structure(facts, config, origin, versions, record, tuple(files)))


def _checked(structure: Structure) -> Structure:
    """Raises ValueError, KeyError or TypeError where what every user of a structure takes for granted is not there."""
    facts, record = structure.facts, structure.record
    if facts["component"] + "" != record["component"] or facts["contract"]["target"] not in TARGETS:
        raise ValueError(f"its component is {facts['component']!r:.60} for {facts['contract']['target']!r:.20}")
    for part, names in (
        (structure.config, ("own", "defaults")),
        (structure.origin, ("checkpoint", "device")),
        (structure.versions, ("forms", "lowering", "graph", "libraries")),
        (record, ("chain", "contract", "file", "files", "lowered", "parameters", "rewrites", "warnings")),
    ):
        if missing := [name for name in names if name not in part]:
            raise KeyError(missing[0])
    if {file.path.partition("/")[0] for file in structure.files} != set(record["files"]):
        raise ValueError("its record lists other files")
    bound = {name for file in structure.files for s in file.segments if s.binding for name in s.binding.parameters}
    if unknown := sorted(bound - facts["tensors"].keys()):
        raise ValueError(f"{unknown[0]!r:.80} is bound and no tensor of the model")
    return structure


def _segment(kind: str, size: int, binding: list[Any] | None = None) -> Segment:
    if kind not in ("bytes", "tensor", "length", "metadata") or type(size) is not int or size < 0:
        raise UntrustedError(f"a segment {kind!r:.40} of {size!r:.40}")
    return Segment(kind, size, None if binding is None else Binding.from_json(binding))


def read_structure(path: Path) -> Structure:
    """Reads a structure's file.

    Raises:
        StructureError: it is damaged, or is none.
        OSError: it cannot be read.
    """
    return from_bytes(path.read_bytes(), path.name)


def write_structure(structure: Structure, path: Path) -> int:
    """Writes a structure's file, whole or not at all, and returns its size in bytes."""
    content = to_bytes(structure)
    with whole_file(path) as place:
        place.write_bytes(content)
    return len(content)
