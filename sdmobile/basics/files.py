"""Write a file whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
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


def files_of(path: Path) -> list[Path]:
    """Returns the file, or every file of the folder in a fixed order."""
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def size_of(paths: list[Path]) -> int:
    """Returns the bytes that the files and folders take."""
    return sum(file.stat().st_size for path in paths for file in files_of(path))


def hash_of(paths: list[Path]) -> str:
    """Returns one SHA-256 over names and contents: of the bytes alone if there is one file."""
    files = [(file, path.parent) for path in paths for file in files_of(path)]
    if len(files) == 1:
        return _file_digest(files[0][0])
    lines = "".join(f"{_file_digest(file)}  {file.relative_to(base).as_posix()}\n" for file, base in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """Puts a file or folder elsewhere, by hard links where possible; finished files are never written again."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link_file)
    else:
        _link_file(str(source), str(target))


def _link_file(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
