"""Numbered pieces of work, shared among processes, kept when finished, and gathered in order.

Each piece is computed alone from its number, so that the result does not depend on how many processes there are.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.basics.files import whole_file
from sdmobile.errors import SdmobileError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Tell = Callable[[str, int, int], None]
_log = logging.getLogger("sdmobile.cache")
# What `accelerate launch`, `torchrun` and mpirun set.
_LAUNCHED = ("ACCELERATE_MIXED_PRECISION", "WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


def silent(what: str, done: int, total: int) -> None:
    """Shows nothing."""


def world() -> tuple[int, int]:
    """Returns the number of this process and how many there are: one, unless a launcher started several."""
    if not any(name in os.environ for name in _LAUNCHED):
        return 0, 1
    state = _state()
    return state.process_index, state.num_processes


def is_main() -> bool:
    """Whether this process writes files and prints."""
    return world()[0] == 0


def computed(
    what: str, pieces: Sequence[int], compute: Callable[[int], NDArray[np.float64]], folder: Path, tell: Tell = silent
) -> list[NDArray[np.float64]]:
    """Computes pieces, each by one process, and returns all of them, in their order, to every process.

    Args:
        what: name of the work, for the progress bar and the files' names.
        pieces: their numbers.
        compute: returns piece i; it depends on i alone.
        folder: finished pieces are kept here, one .npy each; those that are there already are not computed again.
        tell: sees (what, finished, all) of this process.
    """
    rank, size = world()
    mine = pieces[rank::size]
    done: dict[int, NDArray[np.float64]] = {}
    for index in mine:
        tell(what, len(done), len(mine))
        done[index] = _kept(folder / f"{what}-{index:06d}.npy", index, compute)
    tell(what, len(mine), len(mine))
    merged = _gathered(done)
    return [merged[index] for index in pieces]


def _kept(file: Path, index: int, compute: Callable[[int], NDArray[np.float64]]) -> NDArray[np.float64]:
    try:
        return np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        value = np.asarray(compute(index), np.float64)
        keep(file, lambda part: np.save(part, value, allow_pickle=False))
        return value


def keep(file: Path, write: Callable[[Path], object]) -> None:
    """Keeps what was computed for the next run; where that fails, a note says so and nothing else happens.

    Args:
        file: where; it appears whole or not at all.
        write: writes the content to a file of the same name.
    """
    try:
        with whole_file(file) as part:
            write(part)
    except (OSError, SdmobileError) as error:
        _log.warning("note: %s was not kept: %s", file.name, error)


def _gathered(done: dict[int, Any]) -> dict[int, Any]:
    """Returns the pieces of all processes."""
    if world()[1] == 1:
        return done
    from accelerate.utils import gather_object

    return dict(gather_object(list(done.items())))


def wait_for_all() -> None:
    """Returns when every process is here."""
    if world()[1] > 1:
        _state().wait_for_everyone()


def _state() -> Any:
    from accelerate import PartialState

    return PartialState(cpu=True)
