"""How far a command is, on stderr: a bar for work that is counted, a line for each stage of an export."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType


@contextmanager
def step_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yields a function of (what, done, all); the bar goes to stderr and only where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("preparing", total=None)
        yield lambda what, done, total: progress.update(task, description=what, completed=done, total=total)


class StageView:
    """Shows the stages of an export as they happen: one line each, a live one where stderr is a terminal.

    Args:
        enabled: False prints nothing.
    """

    def __init__(self, enabled: bool = True) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, quiet=not enabled, highlight=False)
        self._status = self._console.status("preparing") if self._console.is_terminal and enabled else None
        self._started = time.perf_counter()

    def __enter__(self) -> StageView:
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status:
            self._status.stop()

    def event(self, component: str, event: dict[str, Any]) -> None:
        """Shows one event of a component: the start or end of a stage, "reused" or "done"."""
        elapsed = time.perf_counter() - self._started
        if event["event"] == "start" and self._status:
            self._status.update(f"{component}: {event['stage']}  [{elapsed:.0f} s]")
        elif event["event"] == "end":
            memory = event["peak_rss_bytes"] / 2**30
            stage, seconds = event["stage"], event["seconds"]
            self._console.print(
                f"{elapsed:7.1f} s  {component:13} {stage:10} {seconds:7.1f} s   {memory:5.2f} GiB peak"
            )
        elif event["event"] == "reused":
            self._console.print(f"{elapsed:7.1f} s  {component:13} reused (finished before, nothing has changed)")
