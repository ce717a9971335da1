"""Writes the two files of a package that are otherwise different each time: the program and the list of items.

Protocol buffers store the entries of a map in no fixed order (protobuf.dev, "Serialization is not canonical"), and
coremltools names the items of a package by random identifiers (`modelpackage/src/ModelPackage.cpp`). Both are settled
here, so that a package is a function of what it was made from.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

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
    model = package / "Data" / entries[root]["path"]
    program: Any = Model_pb2.Model()
    program.ParseFromString(model.read_bytes())
    model.write_bytes(program_bytes(program))
    manifest["itemInfoEntries"] = {
        identifiers[old]: entries[old] for old in sorted(entries, key=identifiers.__getitem__)
    }
    manifest["rootModelIdentifier"] = identifiers[root]
    (package / "Manifest.json").write_text(json.dumps(manifest, indent=4) + "\n", "utf-8")
