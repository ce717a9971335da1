"""Files and folders written whole or not at all, copied, measured and hashed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdmobile.basics.scratch import put_in_place, real, scratch_beside
from sdmobile.errors import OutputError, ResourceError, SdmobileError

CACHE_VARIABLE = "SDMOBILE_CACHE"
DATA_VARIABLE = "SDMOBILE_DATA"
_CHUNK = 4 << 20
_SMALL = 1 << 16
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What libraries say that lose the error's number: NumPy's writer, and C++ streams by way of their message.
_FULL_WORDS = re.compile(r"\d+ requested and \d+ written|No space left on device|Disk quota exceeded")
_FICLONE = 0x40049409  # linux/fs.h


def user_cache() -> Path:
    """Returns the user's folder for caches: `$XDG_CACHE_HOME`, else `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def cache_folder(part: str) -> Path:
    """Returns where a part of the cache is: below `$SDMOBILE_CACHE`, else below `sdmobile` in the user's cache."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return (Path(chosen) if chosen else user_cache() / "sdmobile") / part


def data_folder(part: str) -> Path:
    """Returns where a part of what the user keeps is: below `$SDMOBILE_DATA`, else `sdmobile` in the user's data."""
    chosen = os.environ.get(DATA_VARIABLE)
    user = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    return (Path(chosen) if chosen else user / "sdmobile") / part


@contextmanager
def whole_file(file: Path, overwrite: bool = True) -> Iterator[Path]:
    """Yields a place of the same name and on the same disk; what was written there becomes the file at the end.

    The folder is made if needed. After an error, what was there before stays.

    Args:
        file: where to.
        overwrite: whether it may replace a file.

    Raises:
        OutputError: the file exists and may not be replaced.
        OSError: the folder or the file cannot be written.
    """
    place = real(file)
    place.parent.mkdir(parents=True, exist_ok=True)
    with scratch_beside(place) as folder:
        partial = folder / file.name
        yield partial
        put_in_place(partial, file, overwrite)


def write_whole(file: Path, data: bytes, overwrite: bool = True) -> None:
    """Writes a file that is there whole or not at all, making its folder if needed.

    Args:
        file: where to; a device or pipe (`/dev/stdout`) is written to as it is.
        data: the content.
        overwrite: whether it may replace a file.

    Raises:
        OutputError: the folder or the file cannot be written, or the file exists and may not be replaced.
        ResourceError: the disk is full.
    """
    try:
        if file.exists() and not stat.S_ISREG(file.stat().st_mode) and not file.is_dir():
            file.write_bytes(data)
            return
        with whole_file(file, overwrite) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise explained(error, file) from error


def write_json(file: Path, value: Any, indent: int | None = 1) -> None:
    """Writes JSON that ends in a line break, whole or not at all; raises as `write_whole`."""
    write_whole(file, (json.dumps(value, indent=indent) + "\n").encode())


def explained(error: OSError, place: Path | None = None) -> SdmobileError:
    """Returns what a failed system call means to a user: a full disk, or a place that cannot be read or written."""
    told = reason_of(error)
    text = told if place is None or str(place) in told else f"{place}: {told}"
    if is_disk_full(error):
        return ResourceError("the disk must have room for the output", text, "Free some space or choose another place")
    if place is None:
        return OutputError("files and folders must be readable and writable", text)
    return OutputError("the output must be writable", text, "Choose another place")


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that disk or quota are used up."""
    while error is not None:
        if (isinstance(error, OSError) and error.errno in _FULL) or says_disk_full(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def says_disk_full(text: str) -> bool:
    """Whether what a library printed or raised speaks of a full disk."""
    return _FULL_WORDS.search(text) is not None


def has_room(folder: Path) -> bool:
    """Whether a small file can still be written into a folder; False only if the disk or a quota says no."""
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(bytes(_SMALL))
            stream.flush()
    except OSError as error:
        return error.errno not in _FULL
    return True


def reason_of(error: BaseException) -> str:
    """Returns an error as one line; `shutil` gathers those of a tree as tuples of source, target and text."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        return str(error.args[0][0][-1])
    return (str(error) or type(error).__name__).splitlines()[0][:500]


def files_of(path: Path) -> list[Path]:
    """Returns the file, or every file of the folder in a fixed order."""
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def size_of(paths: list[Path]) -> int:
    """Returns the bytes that the files and folders take."""
    return sum(file.stat().st_size for path in paths for file in files_of(path))


def hash_of(paths: list[Path]) -> str:
    """Returns one SHA-256 over names and contents: of the bytes alone if there is one file."""
    files = [(file, path.parent) for path in paths for file in files_of(path)]
    return joined_hash([(file.relative_to(base).as_posix(), hash_file(file)) for file, base in files])


def joined_hash(digests: list[tuple[str, str]]) -> str:
    """Returns what `hash_of` does, from the names and the SHA-256 of the files."""
    if len(digests) == 1:
        return digests[0][1]
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in digests).encode()).hexdigest()


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
    """Adds a file's bytes, in pieces: as many as it says that it has, for a file of the system may never end."""
    buffer = bytearray(_CHUNK)
    with path.open("rb", buffering=0) as stream:
        left = os.fstat(stream.fileno()).st_size
        while left > 0 and (count := stream.readinto(memoryview(buffer)[: min(left, _CHUNK)])):
            digest.update(memoryview(buffer)[:count])
            left -= count


def copy(source: Path, target: Path, leave_out: str | None = None) -> None:
    """Copies a file or a folder's files; they share their blocks where the file system can, and never an inode.

    Args:
        source: a file or folder.
        target: its new name, which nothing has.
        leave_out: name of files and folders below `source` that are not copied.

    Raises:
        OSError: of the first file that cannot be read or written.
    """
    if not source.is_dir():
        _copy_file(source, target)
        return
    target.mkdir()
    for entry in sorted(source.iterdir()):
        if entry.name != leave_out:
            copy(entry, target / entry.name, leave_out)


def _copy_file(source: Path, target: Path) -> None:
    if not _cloned(source, target):
        shutil.copyfile(source, target)
    target.chmod(source.stat().st_mode & 0o777)


def _cloned(source: Path, target: Path) -> bool:
    """Lets the target share the source's blocks until one is written (Btrfs, XFS, APFS); False where that cannot be."""
    if sys.platform == "darwin":
        import ctypes

        clone = getattr(ctypes.CDLL(None), "clonefile", None)
        return clone is not None and clone(os.fsencode(source), os.fsencode(target), 0) == 0
    if sys.platform != "linux":
        return False
    import fcntl

    with source.open("rb") as original, target.open("wb") as new:
        try:
            fcntl.ioctl(new, _FICLONE, original.fileno())
        except OSError:
            return False
    return True
