"""`files.json`: says what the manifest says, and whoever disagrees is named."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from sdmobile.basics.files import hash_file
from sdmobile.formats.bundle.file_list import FILE_LIST, bundle_hash, check_file_list
from sdmobile.formats.bundle.reading import MANIFEST, BundleError, open_bundle
from sdmobile.formats.bundle.writing import seal
from tests.fuzz.bundles import small_bundle
from tests.validate.bundles import read_manifest


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    folder = small_bundle(tmp_path / "bundle", "android")
    return _sealed(folder)


def _sealed(folder: Path) -> Path:
    """Seals a bundle under construction, which has no manifest yet."""
    manifest = read_manifest(folder)
    (folder / MANIFEST).unlink()
    seal(manifest, folder, "# a card\n")
    return folder


def _changed_list(folder: Path, **changes: Any) -> None:
    """Edits the list and makes the manifest agree with its bytes."""
    document = {**json.loads((folder / FILE_LIST).read_text()), **changes}
    (folder / FILE_LIST).write_text(json.dumps(document))
    manifest = read_manifest(folder)
    manifest["files"][FILE_LIST] = {
        "sha256": hash_file(folder / FILE_LIST),
        "bytes": (folder / FILE_LIST).stat().st_size,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_it_lists_every_file_but_itself_and_the_manifest(sealed: Path) -> None:
    document = json.loads((sealed / FILE_LIST).read_text())
    on_disk = {file.relative_to(sealed).as_posix() for file in sealed.rglob("*") if file.is_file()}
    assert {entry["path"] for entry in document["files"]} == on_disk - {FILE_LIST, MANIFEST}
    for entry in document["files"]:
        data = (sealed / entry["path"]).read_bytes()
        assert (entry["size"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    bundle = open_bundle(sealed)
    assert FILE_LIST in bundle.files
    check_file_list(bundle)


def test_the_hash_is_that_of_sha256sum(sealed: Path) -> None:
    entries = json.loads((sealed / FILE_LIST).read_text())["files"]
    text = "".join(f"{entry['sha256']}  {entry['path']}\n" for entry in entries)
    assert bundle_hash(read_manifest(sealed)["files"]) == hashlib.sha256(text.encode()).hexdigest()


def test_sealing_again_takes_no_notice_of_the_old_list(sealed: Path) -> None:
    before = (sealed / FILE_LIST).read_bytes()
    _sealed(sealed)
    assert (sealed / FILE_LIST).read_bytes() == before


def test_another_file_is_named(sealed: Path) -> None:
    entries = json.loads((sealed / FILE_LIST).read_text())["files"]
    entries[-1]["sha256"] = "0" * 64
    _changed_list(sealed, files=entries)
    with pytest.raises(BundleError, match=entries[-1]["path"]):
        check_file_list(open_bundle(sealed))


@pytest.mark.parametrize("files", [{}, [{}], "text", [{"path": "x", "size": 1, "sha256": "0" * 64}]])
def test_a_damaged_list_is_refused(sealed: Path, files: Any) -> None:
    _changed_list(sealed, files=files)
    with pytest.raises(BundleError, match=FILE_LIST):
        check_file_list(open_bundle(sealed))


def test_a_bundle_of_before_has_none(tmp_path: Path) -> None:
    check_file_list(open_bundle(small_bundle(tmp_path / "old", "android")))
