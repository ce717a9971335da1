"""Write a file whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from sdmobile.errors import OutputError


def write_whole(file: Path, data: bytes) -> None:
    """Writes to a temporary name in the same folder and renames it, making the folder if needed.

    Raises:
        OutputError: the folder or the file cannot be written.
    """
    temporary: str | None = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, file)
    except OSError as error:
        raise OutputError("the output must be writable", f"{file}: {error}", "Choose another place.") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def _umask() -> int:
    """Returns the umask, which can only be read by setting it; mkstemp ignores it and makes private files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
