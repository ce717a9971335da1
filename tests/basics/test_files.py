"""Files that are there whole or not at all, and hashes that depend on names and contents alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from sdmobile.basics.files import hash_file, hash_json, hash_of, hash_tree, whole_file, write_json, write_whole
from sdmobile.errors import OutputError


def _break_off(file: Path) -> None:
    with whole_file(file) as partial:
        np.savez(partial, values=np.zeros(2))
        assert partial.is_file()  # NumPy adds a suffix where its own is missing
        raise RuntimeError


def test_a_file_that_breaks_off_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "kept.npz"
    np.savez(file, values=np.ones(3))
    with pytest.raises(RuntimeError):
        _break_off(file)
    assert np.array_equal(np.load(file)["values"], np.ones(3))
    assert [path.name for path in tmp_path.iterdir()] == ["kept.npz"]


def test_folders_are_made_and_files_are_readable_as_usual(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", {"ü": 1})
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    written = tmp_path / "new" / "a.json"
    assert json.loads(written.read_text("utf-8")) == {"ü": 1}
    assert written.read_bytes().endswith(b"}\n")
    assert written.stat().st_mode == plain.stat().st_mode
    assert [path.name for path in written.parent.iterdir()] == ["a.json"]


def test_a_place_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="must be writable"):
        write_whole(tmp_path / "file" / "below", b"")


def test_hashes(tmp_path: Path) -> None:
    for name, content in (("a/x", b"1"), ("b", b"22")):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
    a, b = tmp_path / "a" / "x", tmp_path / "b"
    assert hash_file(b) == hashlib.sha256(b"22").hexdigest() == hash_of([b])
    assert hash_tree(tmp_path, [b, a]) == hashlib.sha256(b"a/x\x001\x001b\x002\x0022").hexdigest()
    lines = f"{hash_file(a)}  a/x\n{hash_file(b)}  b\n".encode()
    assert hash_of([tmp_path / "a", b]) == hashlib.sha256(lines).hexdigest()
    assert hash_json({"x": 1, "y": [2]}) == hash_json({"y": [2], "x": 1}) != hash_json({"x": 1, "y": [3]})


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="a file of Linux")
def test_a_file_that_says_it_has_no_bytes_is_not_read() -> None:
    """Some files of the system are never at their end: `/proc/kmsg`."""
    assert hash_file(Path("/proc/self/status")) == hashlib.sha256(b"").hexdigest()
