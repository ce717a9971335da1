"""Several components at a time, as many as cores and memory allow; their results come one by one, in this thread."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Run = Callable[[str, int], Any]
    Done = Callable[[str, Any], None]


def run_together(
    needs: Mapping[str, int], room: int, cores: int, at_once: int, run: Run, done: Done, stop: Callable[[], None]
) -> None:
    """Runs tasks, those that need most first; one alone is run whatever it needs.

    Args:
        needs: estimated memory of each task, in bytes.
        room: memory that is free, in bytes.
        cores: they are divided among the tasks that may run at once.
        at_once: the most tasks that run at once.
        run: does a task with so many threads; called in a thread of its own.
        done: takes a task's result.
        stop: lets all tasks under way fail; called when one has failed, or when this thread is interrupted.
    """
    waiting = sorted(needs, key=lambda name: -needs[name])
    running: dict[Future[Any], str] = {}

    def fits(name: str) -> bool:
        return not running or (len(running) < at_once and needs[name] + sum(map(needs.get, running.values())) <= room)  # type: ignore[arg-type]

    with ThreadPoolExecutor(at_once) as pool:
        try:
            while waiting or running:
                for name in list(waiting):
                    if fits(name):
                        waiting.remove(name)
                        running[pool.submit(run, name, _threads(name, needs, room, cores, at_once))] = name
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    done(running.pop(future), future.result())
        except BaseException:
            stop()
            raise


def _threads(name: str, needs: Mapping[str, int], room: int, cores: int, at_once: int) -> int:
    """Returns the threads of a task: all cores if no other task will ever run beside it."""
    beside = any(other != name and needs[other] + needs[name] <= room for other in needs)
    return max(1, cores // at_once) if beside else cores
