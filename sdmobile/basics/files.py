"""Files written whole or not at all, and their hashes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdmobile.errors import OutputError

_CHUNK = 4 << 20


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """Yields a place of the same name and on the same disk; what was written there becomes the file at the end.

    The folder is made if needed. After an error, what was there before stays.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as folder:
        partial = Path(folder) / file.name
        yield partial
        os.replace(partial, file)


def write_whole(file: Path, data: bytes) -> None:
    """Writes a file that is there whole or not at all, making its folder if needed.

    Raises:
        OutputError: the folder or the file cannot be written.
    """
    try:
        with whole_file(file) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise OutputError("the output must be writable", f"{file}: {error}", "Choose another place.") from error


def write_json(file: Path, value: Any, indent: int | None = 1) -> None:
    """Writes JSON that ends in a line break, whole or not at all; raises as `write_whole`."""
    write_whole(file, (json.dumps(value, indent=indent) + "\n").encode())


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
        return hash_file(files[0][0])
    lines = "".join(f"{hash_file(file)}  {file.relative_to(base).as_posix()}\n" for file, base in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def hash_file(path: Path) -> str:
    """Returns the SHA-256 of a file as hexadecimal digits."""
    digest = hashlib.sha256()
    _take_in(digest, path)
    return digest.hexdigest()


def hash_tree(root: Path, files: Iterable[Path]) -> str:
    """Returns one SHA-256 over names, sizes and contents of files below a folder, in the order of the names."""
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(root).as_posix(), path) for path in files):
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        _take_in(digest, path)
    return digest.hexdigest()


def hash_json(facts: Any) -> str:
    """Returns the SHA-256 of a JSON document, whatever the order of its keys; it is the key of what depends on it."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _take_in(digest: Any, path: Path) -> None:
    """Adds a file's bytes, in pieces."""
    buffer = bytearray(_CHUNK)
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            digest.update(memoryview(buffer)[:count])


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
