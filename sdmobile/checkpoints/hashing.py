"""One hash for a set of files."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from sdmobile.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_CHUNK = 4 << 20


def hash_files(root: Path, files: Iterable[Path]) -> str:
    """Returns the SHA-256 of relative names, sizes and contents, in the order of the names.

    Args:
        root: folder that the names are relative to, so that the hash does not depend on where it lies.
        files: files below root.

    Raises:
        CheckpointError: a file cannot be read.
    """
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    for name, path in sorted((path.relative_to(root).as_posix(), path) for path in files):
        try:
            digest.update(f"{name}\0{path.stat().st_size}\0".encode())
            with path.open("rb", buffering=0) as stream:
                while count := stream.readinto(buffer):
                    digest.update(view[:count])
        except OSError as error:
            raise CheckpointError("every file of the checkpoint must be readable", f"{path}: {error}") from error
    return digest.hexdigest()
