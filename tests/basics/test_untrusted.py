"""Files and documents of strangers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sdmobile.basics.untrusted import UntrustedError, read_bounded


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert read_bounded(file, 5) == b"12345"
    with pytest.raises(UntrustedError, match="5 bytes; at most 4"):
        read_bounded(file, 4)


def test_an_empty_file_is_empty(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert read_bounded(tmp_path / "file", 5) == b""


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UntrustedError, match="a pipe is no regular file"):
        read_bounded(tmp_path / "pipe", 5)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="a file of Linux")
def test_a_file_of_the_system_is_not_read() -> None:
    """It says that it is a regular file of 0 bytes; some (`/proc/kmsg`) are never at their end."""
    assert read_bounded(Path("/proc/self/status"), 1 << 20) == b""
