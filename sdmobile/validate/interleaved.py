"""Times several ways of doing the same in turns, so that the machine's moods fall on all of them alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping

Run = Callable[[], object]


def interleaved(
    contenders: Mapping[str, Callable[[], Run]], rounds: int, repeats: int, tell: Callable[[str], None] | None = None
) -> dict[str, list[float]]:
    """Returns the milliseconds of every timed run of every contender.

    A round opens each contender in turn, runs it once to warm up, times `repeats` runs and closes it, so that only one
    is in memory at a time.

    Args:
        contenders: by name, a function that loads it and returns the function to time.
        rounds: how often each is opened.
        repeats: timed runs a round.
        tell: sees what is under way.
    """
    milliseconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, load in contenders.items():
            if tell is not None:
                tell(f"timing {name}, round {number + 1} of {rounds}")
            run = load()
            run()
            for _ in range(repeats):
                started = time.perf_counter()
                run()
                milliseconds[name].append(1e3 * (time.perf_counter() - started))
            del run
            gc.collect()
    return milliseconds
