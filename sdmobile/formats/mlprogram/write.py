"""Writes the files of a package: program and list of items, and weights that lie in another package.

Protocol buffers store the entries of a map in no fixed order (protobuf.dev, "Serialization is not canonical"), and
coremltools names the items of a package by random identifiers (`modelpackage/src/ModelPackage.cpp`). Both are settled
here, so that a package is a function of what it was made from.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.basics.untrusted import inside
from sdmobile.formats.mlprogram.types import DATA_TYPES, TensorType

if TYPE_CHECKING:
    from sdmobile.formats.mlprogram.blob_writer import BlobWriter
    from sdmobile.formats.mlprogram.constants import Blob, WeightReader

WEIGHT_FILE = "@model_path/weights/weight.bin"
"""How a program names its weight file."""
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:sdmobile:mlpackage-item")


def program_bytes(model: Any) -> bytes:
    """Returns a Model message as bytes, with the entries of every map sorted by key."""
    return model.SerializeToString(deterministic=True)


def settle(package: Path) -> None:
    """Rewrites program and `Manifest.json` of a package that coremltools saved, with nothing in them left to chance.

    An item's identifier becomes uuid5 of its path in the package.

    Args:
        package: the `.mlpackage` folder.
    """
    from coremltools.proto import Model_pb2

    manifest = json.loads((package / "Manifest.json").read_text("utf-8"))
    entries: dict[str, dict[str, str]] = manifest["itemInfoEntries"]
    identifiers = {old: str(uuid.uuid5(_NAMESPACE, entry["path"])) for old, entry in entries.items()}
    root = manifest["rootModelIdentifier"]
    model = inside(package / "Data", entries[root]["path"])
    program: Any = Model_pb2.Model()
    program.ParseFromString(model.read_bytes())
    model.write_bytes(program_bytes(program))
    manifest["itemInfoEntries"] = {
        identifiers[old]: entries[old] for old in sorted(entries, key=identifiers.__getitem__)
    }
    manifest["rootModelIdentifier"] = identifiers[root]
    (package / "Manifest.json").write_text(json.dumps(manifest, indent=4) + "\n", "utf-8")


class BlobCopier:
    """Copies arrays that lie in weight files to a new one, each once.

    Args:
        reader: of the package in which they lie.
        writer: of the new file.
    """

    def __init__(self, reader: WeightReader, writer: BlobWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._offsets: dict[Blob, int] = {}

    def move(self, value: Any) -> None:
        """Copies the array of a Value message, if it lies in a file, and makes the message name the copy.

        Raises:
            PackageError: the array is not there, or is another than the message says.
        """
        if not value.HasField("blobFileValue"):
            return
        place = value.blobFileValue
        blob = (place.fileName, place.offset)
        if blob not in self._offsets:
            stored = stored_type(value)
            array = self._reader.read_blob(*blob, stored)
            self._offsets[blob] = self._writer.add(array, "uint8" if stored.dtype == "bool" else stored.dtype)
        place.fileName, place.offset = WEIGHT_FILE, self._offsets[blob]


def stored_type(value: Any) -> TensorType:
    """Returns the element type and shape that a Value message declares."""
    tensor = value.type.tensorType
    return TensorType(DATA_TYPES[tensor.dataType], tuple(size.constant.size for size in tensor.dimensions))
