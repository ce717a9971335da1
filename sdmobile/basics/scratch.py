"""Hidden folders for work in progress: locked while their owner lives, cleared away by the next run when it is dead.

    .NAME.sdmobile-XXXXXXXX/
        lock      the living owner holds flock(2) on it; the system lets go of it however the owner ends
        work/     what is being made
        aside/    what was moved out of its place and belongs there until `work` has taken it

A folder whose lock nobody holds is dead, whatever its age. Before it is deleted, what lies in `aside` goes back to its
name beside the folder, if that is free.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sdmobile.basics.renames import exchange, move_if_free
from sdmobile.basics.stopping import undisturbed
from sdmobile.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MARK = ".sdmobile-"
_LOCK, _WORK, _ASIDE = "lock", "work", "aside"
_NAME_CHARACTERS = 40  # at most 160 bytes of UTF-8, so that the whole name fits into 255
_TRIES = 20


@contextmanager
def scratch_beside(target: Path) -> Iterator[Path]:
    """Yields an empty folder on the target's file system and removes it whatever happens.

    What dead processes left beside the target is cleared away first.

    Raises:
        OSError: the folder above the target is missing or cannot be written.
    """
    place = real(target)
    sweep(place.parent)
    with _scratch(place.parent, place.name) as folder:
        yield folder / _WORK


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """Yields an empty folder in the system's folder for temporary files and removes it whatever happens.

    Args:
        purpose: a word for its name, such as "gpu-check".
    """
    parent = Path(tempfile.gettempdir())
    sweep(parent)
    with _scratch(parent, purpose) as folder:
        yield folder / _WORK


def put_in_place(
    made: Path, target: Path, overwrite: bool, replaceable: Callable[[Path], bool] = lambda _: True
) -> None:
    """Gives a finished file or folder its name; at every moment the name stands for all of the old or of the new.

    Args:
        made: what was made, in a scratch folder of the target's file system; its former content is there afterwards.
        target: where it belongs; a symbolic link to such a place is followed.
        overwrite: whether it may replace what has the name.
        replaceable: says of what has the name whether it may be replaced.

    Raises:
        OutputError: the name is taken and may not be overwritten.
        OSError: the folder cannot be written.
    """
    place = real(target)
    with undisturbed():
        for _ in range(_TRIES):  # another process may take or free the name between two looks
            if os.path.lexists(place):
                if not overwrite:
                    raise _taken(target)
                if _replaced(made, place, target, replaceable):
                    return
            else:
                try:
                    return move_if_free(made, place)
                except FileExistsError as error:
                    if not overwrite:
                        raise _taken(target) from error
    raise OutputError("one process at a time may write an output", target, "Choose another place")


def _taken(target: Path) -> OutputError:
    return OutputError(
        "the output must not exist", f"{target} appeared meanwhile", "Pass --overwrite or choose another place"
    )


def _replaced(made: Path, place: Path, target: Path, replaceable: Callable[[Path], bool]) -> bool:
    """Puts `made` where something is, which comes to lie where `made` was; returns False if that has just gone."""
    if not replaceable(place):
        raise OutputError("--overwrite replaces what sdmobile wrote", target, "Choose another place")
    try:
        if not made.is_dir():
            os.replace(made, place)
            return True
        if exchange(made, place):
            if not replaceable(made):  # it has come between the look and the exchange
                exchange(made, place)
                raise OutputError("--overwrite replaces what sdmobile wrote", target, "Choose another place")
            return True
    except FileNotFoundError:
        return False
    return _by_moving_aside(made, place)


def _by_moving_aside(made: Path, place: Path) -> bool:
    """Replaces a folder in two renames; if the run ends between them, `sweep` puts the old one back."""
    with _scratch(place.parent, place.name) as folder:
        (folder / _ASIDE).mkdir()
        try:
            os.rename(place, folder / _ASIDE / place.name)
        except FileNotFoundError:
            return False
        try:
            move_if_free(made, place)
        except FileExistsError:
            return False
        with suppress(OSError):  # the new one is in place: the old one shall not come back if that should be moved away
            os.rename(folder / _ASIDE / place.name, folder / _WORK / "replaced")
    return True


def sweep(parent: Path) -> None:
    """Clears away what dead processes of this user left in a folder; what cannot be read or removed stays."""
    try:
        names = [entry.name for entry in os.scandir(parent) if entry.name.startswith(".") and MARK in entry.name]
    except OSError:
        return
    for name in names:
        _clear_if_dead(parent / name)


def recover(target: Path) -> None:
    """Puts back what a dead process moved away from a name, if nothing has the name; cheap if something does."""
    if not os.path.lexists(target):
        sweep(real(target).parent)


def real(target: Path) -> Path:
    """Returns the absolute path without symbolic links; it need not exist."""
    return Path(os.path.realpath(target))


@contextmanager
def _scratch(parent: Path, name: str) -> Iterator[Path]:
    created: list[tuple[Path, int]] = []
    try:
        with undisturbed():
            created.append(_create(parent, name))
        yield created[0][0]
    finally:
        with undisturbed():
            for folder, descriptor in created:
                _clear(folder)
                os.close(descriptor)


def _create(parent: Path, name: str) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{name[:_NAME_CHARACTERS]}{MARK}", dir=parent))
        try:
            descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            continue  # swept before it was locked
        _lock(descriptor, wait=True)
        if _is_open_at(descriptor, folder / _LOCK):
            try:
                (folder / _WORK).mkdir()
            except BaseException:
                _clear(folder)
                os.close(descriptor)
                raise
            return folder, descriptor
        os.close(descriptor)


def _clear_if_dead(folder: Path) -> None:
    """Removes a folder in progress if it is this user's and nobody holds its lock."""
    lock = folder / _LOCK
    try:
        status = os.lstat(folder)
        if not stat.S_ISDIR(status.st_mode) or (hasattr(os, "geteuid") and status.st_uid != os.geteuid()):
            return
        # Made if needed: its owner may have died before it made the lock.
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:
        return
    try:
        if _lock(descriptor, wait=False) and _is_open_at(descriptor, lock):
            with undisturbed():
                _clear(folder)
    finally:
        os.close(descriptor)


def _clear(folder: Path) -> None:
    """Puts back what was moved aside, if its name is free, and deletes the rest; the caller holds the lock."""
    try:
        aside = [entry.name for entry in os.scandir(folder / _ASIDE)]
    except OSError:
        aside = []
    for name in aside:
        try:
            move_if_free(folder / _ASIDE / name, folder.parent / name)
        except FileExistsError:
            continue  # its name has been given to something newer
        except OSError:
            return  # stays where it is, for the next run
    for entry in (_ASIDE, _WORK):
        shutil.rmtree(folder / entry, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)  # the lock last: as long as it is there, the rest is findable


def _lock(descriptor: int, wait: bool) -> bool:
    """Returns whether this process holds the lock; False where the file system has none."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _is_open_at(descriptor: int, path: Path) -> bool:
    """Whether the path still leads to the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False
