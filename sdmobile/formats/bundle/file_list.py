"""`files.json`: path, size and SHA-256 of a bundle's files, small enough for a phone to read before anything else.

The manifest has the same figures beside much that a phone does not need. Both are written together and must agree; what
is added to a bundle later (recorded calls of the reference) is in neither.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdmobile.basics.files import joined_hash
from sdmobile.basics.untrusted import UntrustedError, parse_json, read_bounded
from sdmobile.formats.bundle.reading import BundleError

if TYPE_CHECKING:
    from sdmobile.formats.bundle.reading import Bundle

FILE_LIST = "files.json"
GOLDEN = ("golden.json", "golden.bin")
"""What `validate` adds to a bundle: recorded calls, which name the bundle that they belong to by its hash."""
KIND = "sdmobile-files"
SCHEMA_VERSION = 1
_MAX_BYTES = 1 << 22
_AGAIN = "Export the bundle again, or copy it again from where it was whole."

Entries = Mapping[str, Mapping[str, Any]]


def bundle_hash(entries: Entries) -> str:
    """Returns one SHA-256 for the content of a bundle: over names and hashes, in the order of the names.

    Args:
        entries: the manifest's files; the list itself does not count.
    """
    names = sorted(name for name in entries if name not in (FILE_LIST, *GOLDEN))
    return joined_hash([(name, str(entries[name]["sha256"])) for name in names])


def file_list(entries: Entries) -> dict[str, Any]:
    """Returns the document.

    Args:
        entries: size (`bytes`) and `sha256` of every file by its path, as the manifest has them.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "bundle_sha256": bundle_hash(entries),
        "files": [
            {"path": name, "size": entry["bytes"], "sha256": entry["sha256"]}
            for name, entry in sorted(entries.items())
            if name not in (FILE_LIST, *GOLDEN)
        ],
    }


def file_list_text(entries: Entries) -> str:
    """Returns the file's text, the same for the same files."""
    return json.dumps(file_list(entries), indent=1) + "\n"


def check_file_list(bundle: Bundle) -> None:
    """Checks that a bundle's list says what its manifest says; a bundle of before there were lists has none.

    Args:
        bundle: opened, its files compared with the manifest.

    Raises:
        BundleError: the list is damaged, or names another file, size or hash; the message names the file.
    """
    place = bundle.path / FILE_LIST
    if FILE_LIST not in bundle.files and not place.exists():
        return
    try:
        listed = parse_json(read_bounded(place, _MAX_BYTES))
        found = {str(entry["path"]): (entry["size"], entry["sha256"]) for entry in listed["files"]}
    except (OSError, UntrustedError, KeyError, TypeError) as error:
        raise BundleError(f"{FILE_LIST} must list a bundle's files", f"{place}: {error!r:.200}", _AGAIN) from error
    expected = {
        entry["path"]: (entry["size"], entry["sha256"]) for entry in file_list(bundle.manifest["files"])["files"]
    }
    if found == expected and listed.get("bundle_sha256") == bundle_hash(bundle.manifest["files"]):
        return
    names = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    raise BundleError(
        f"{FILE_LIST} and the manifest must say the same of every file", names[0] if names else "bundle_sha256", _AGAIN
    )
