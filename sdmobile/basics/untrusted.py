"""Reads what somebody else wrote: bounded regular files, JSON and TOML of bounded depth, paths that stay inside.

What breaks a rule raises `UntrustedError`, a ValueError, so that a reader's own "must be JSON" covers it; the reader
adds the file and what to do. Nothing here waits for a pipe or reads without end. The checks hold for the tree as it
lies; they are no defence against a process that changes it meanwhile.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MAX_DEPTH = 64
MAX_INTEGER = 2**53
"""Larger ones are not the same in every reader of JSON (RFC 8259, section 6)."""
MAX_TREE = 20_000
_MAX_PATH, _MAX_NAME = 1024, 255
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# A backslash separates on Windows; a colon makes `C:x` another drive and `file:stream` another file there.
_NOT_IN_PATHS = re.compile(r"[\x00-\x1f\x7f-\x9f\\:\ud800-\udfff]")


class UntrustedError(ValueError):
    """A file, document or path that breaks a rule; the text says which, with the value."""


def read_bounded(path: Path, most: int) -> bytes:
    """Returns the bytes of a regular file.

    Args:
        path: the file; a link is followed, for a name that the user gave may be one.
        most: bytes that it may have.

    Raises:
        UntrustedError: a pipe, a device, a folder, or too large.
        OSError: missing or not readable.
    """
    # O_NONBLOCK: opening a pipe that nobody writes to must not wait; a regular file does not mind.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise UntrustedError(f"{_kind(status.st_mode)} is no regular file")
    with os.fdopen(descriptor, "rb") as stream:
        if status.st_size > most:
            raise UntrustedError(f"{status.st_size} bytes; at most {most} are read")
        # Files of the system (`/proc`) say that they have no bytes, and reading one may wait for ever.
        data = stream.read(most + 1) if status.st_size else b""
    if len(data) > most:
        raise UntrustedError(f"it grows while it is read; at most {most} bytes are read")
    return data


def parse_json(data: bytes | str, finite: bool = True) -> Any:
    """Returns the values of a JSON document that is plain: what every reader takes for the same.

    Args:
        data: the document.
        finite: refuse Python's `NaN` and `Infinity`, which are no JSON.

    Raises:
        UntrustedError: no JSON, deeper than `MAX_DEPTH`, a key twice, a number that is not finite or beyond
            `MAX_INTEGER`, or text with control characters.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise UntrustedError(f"nested deeper than {MAX_DEPTH} levels") from None
    except UnicodeDecodeError as error:
        raise UntrustedError(f"no UTF-8 text: {error}") from error
    except ValueError as error:
        raise error if isinstance(error, UntrustedError) else UntrustedError(str(error)) from error
    check_plain(value, finite)
    return value


def parse_toml(data: bytes) -> dict[str, Any]:
    """Returns the tables of a TOML document.

    Raises:
        UntrustedError: no TOML, deeper than `MAX_DEPTH`, or values as `parse_json` refuses them.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        tables = tomllib.loads(data.decode("utf-8"))
    except RecursionError:
        raise UntrustedError(f"nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise UntrustedError(str(error)) from error
    check_plain(tables)
    return tables


def check_plain(value: Any, finite: bool = True) -> None:
    """Checks the values of a document without recursion.

    Args:
        value: what a parser returned.
        finite: refuse numbers that are not.

    Raises:
        UntrustedError: as `parse_json`.
    """
    waiting: list[tuple[Any, int]] = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise UntrustedError(f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(item, dict):
            waiting += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list):
            waiting += [(part, depth + 1) for part in item]
        elif isinstance(item, str):
            if control := _CONTROL.search(item):
                raise UntrustedError(f"text with the character {control.group()!a}: {item[:40]!a}")
        elif isinstance(item, float):
            if finite and not math.isfinite(item):
                raise UntrustedError(f"the number {item} is not finite")
        elif isinstance(item, int) and abs(item) > MAX_INTEGER:
            raise UntrustedError(f"a whole number beyond ±{MAX_INTEGER}: {_shown(item)}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    known = dict(pairs)
    if len(known) != len(pairs):
        names = [name for name, _ in pairs]
        raise UntrustedError(f"a key twice: {next(n for n in names if names.count(n) > 1)[:80]!a}")
    return known


def _shown(number: int) -> str:
    """Returns an integer for people; the text of one with thousands of digits takes long and is refused by Python."""
    return str(number) if number.bit_length() < 256 else f"of {number.bit_length()} bits"


def checked_parts(text: str) -> tuple[str, ...]:
    """Returns the parts of a relative path that leads down, and nowhere else on any system.

    Raises:
        UntrustedError: empty, absolute, with `..`, a backslash, a drive or control characters, or too long.
    """
    parts = tuple(text.split("/"))
    if len(text) > _MAX_PATH or any(len(part.encode("utf-8", "surrogatepass")) > _MAX_NAME for part in parts):
        raise UntrustedError(f"a path of at most {_MAX_PATH} characters: {text[:80]!a}…")
    if _NOT_IN_PATHS.search(text) or any(part in ("", ".", "..") for part in parts):
        raise UntrustedError(f"{text!a} is no plain relative path")
    return parts


def inside(root: Path, text: str) -> Path:
    """Returns a path below a folder, none of whose parts below it is a link; whether it exists is not asked.

    Args:
        root: the folder, as the user named it.
        text: the path in it, with slashes.

    Raises:
        UntrustedError: as `checked_parts`, or a part is a link.
    """
    path = root
    for part in checked_parts(text):
        path = path / part
        if path.is_symlink():
            raise UntrustedError(f"{text!a} goes through the link {path.name!a}")
    return path


def check_tree(root: Path) -> None:
    """Checks that a folder holds folders and regular files only.

    Raises:
        UntrustedError: a link, a pipe, a device, or more than `MAX_TREE` entries or `MAX_DEPTH` levels.
        OSError: a folder cannot be read.
    """
    seen = 0
    waiting: list[tuple[Path, int]] = [(root, 1)]
    while waiting:
        folder, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise UntrustedError(f"folders nested deeper than {MAX_DEPTH} levels")
        for entry in _entries(folder):
            seen += 1
            if seen > MAX_TREE:
                raise UntrustedError(f"more than {MAX_TREE} files and folders")
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                waiting.append((folder / entry.name, depth + 1))
            elif not stat.S_ISREG(mode):
                name = (folder / entry.name).relative_to(root).as_posix()
                raise UntrustedError(f"{name!a} is {_kind(mode)}")


def _entries(folder: Path) -> Iterable[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from entries


_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def _kind(mode: int) -> str:
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "something")
