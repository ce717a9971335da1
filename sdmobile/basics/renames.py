"""Renames that a plain `os.rename` cannot do: exchange two names in one step, and move only to a free name."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

# renameat2(2), linux/fs.h; renamex_np(2), sys/stdio.h of macOS 10.12.
_LINUX_FREE, _LINUX_EXCHANGE = 1, 2
_MACOS_EXCHANGE, _MACOS_FREE = 2, 4
_AT_FDCWD = -100
# The kernel does not know the call, or the file system not the flag (NFS, some of FUSE).
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)


def exchange(first: Path, second: Path) -> bool:
    """Exchanges what two names stand for in one step, so that neither is ever missing.

    Returns:
        False where kernel or file system cannot; nothing has changed then.

    Raises:
        OSError: one of them does not exist, or the folders may not be written.
    """
    return _flagged(first, second, _MACOS_EXCHANGE if sys.platform == "darwin" else _LINUX_EXCHANGE)


def move_if_free(source: Path, target: Path) -> None:
    """Moves a file or folder to a name that nothing has.

    Where the system has no such call, a folder is renamed (that fails on anything but an empty folder) and a file gets
    a second name by a hard link (that fails if the name is taken) or reserves its name.

    Raises:
        FileExistsError: something has the name; it is untouched.
        OSError: the folders may not be written.
    """
    if _flagged(source, target, _MACOS_FREE if sys.platform == "darwin" else _LINUX_FREE):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    if source.is_dir():
        _rename_folder(source, target)
    else:
        _link_then_unlink(source, target)


def _rename_folder(source: Path, target: Path) -> None:
    try:
        os.rename(source, target)
    except (FileExistsError, NotADirectoryError) as error:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        raise


def _link_then_unlink(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: reserve the name, then rename over it
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        os.replace(source, target)
    else:
        os.unlink(source)


def _flagged(source: Path, target: Path, flag: int) -> bool:
    """Calls the system's rename with a flag; returns False where it cannot."""
    call = _system_call()
    if call is None:
        return False
    ctypes.set_errno(0)
    if call(os.fsencode(source), os.fsencode(target), flag) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(source), None, str(target))


@cache
def _system_call() -> Any:
    """Returns a function of (source, target, flag) that is 0 on success and sets errno; None where there is none."""
    if sys.platform not in ("linux", "darwin"):
        return None
    library = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "darwin":
        function = getattr(library, "renamex_np", None)
        if function is not None:
            function.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint]
        return function
    renameat2 = getattr(library, "renameat2", None)  # glibc 2.28
    if renameat2 is None:
        return None
    renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return lambda source, target, flag: renameat2(_AT_FDCWD, source, _AT_FDCWD, target, flag)
