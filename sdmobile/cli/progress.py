"""How far a command is, on stderr: live where that is a terminal, else a line for each stage; nothing under --quiet."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sdmobile.cli.output import is_quiet, stderr_console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from rich.console import Console
    from rich.progress import Progress


@contextmanager
def step_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yields a function of (what, done, all), for work that is counted."""
    with StageView() as view:
        yield view.step


class StageView:
    """Shows the stages of a command as they happen."""

    def __init__(self) -> None:
        self._console = stderr_console()
        self._live = _bar(self._console) if self._console.is_terminal and not is_quiet() else None
        self._started = time.perf_counter()
        self._stage = ""
        self._under_way: dict[str, str] = {}

    def __enter__(self) -> StageView:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def step(self, what: str, done: int, total: int) -> None:
        """Shows counted work: a bar in a terminal, elsewhere a line where something else begins."""
        if self._live:
            self._show(what, done, total)
        elif what != self._stage:
            self._line(what)
        self._stage = what

    def event(self, component: str, event: dict[str, Any]) -> None:
        """Shows one event of a component: the start or end of a stage, "reused" or "done"."""
        if event["event"] == "start":
            self._under_way[component] = event["stage"]
            if self._live:  # components may be exported at the same time
                self._show(", ".join(f"{name}: {stage}" for name, stage in self._under_way.copy().items()), 0, None)
        elif event["event"] == "end":
            self._under_way.pop(component, None)
            memory = event["peak_rss_bytes"] / 2**30
            self._line(f"{component:13} {event['stage']:10} {event['seconds']:7.1f} s   {memory:5.2f} GiB peak")
        elif event["event"] == "reused":
            self._line(f"{component:13} reused (finished before, nothing has changed)")

    def _show(self, what: str, done: int, total: int | None) -> None:
        assert self._live is not None
        self._live.update(self._live.task_ids[0], description=what, completed=done, total=total)

    def _line(self, text: str) -> None:
        if not is_quiet():
            self._console.print(f"{time.perf_counter() - self._started:7.1f} s  {text}", markup=False, soft_wrap=True)


def _bar(console: Console) -> Progress:
    """Returns a display of one task; it leaves Python's own stderr alone, where libraries print."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    live = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
    live.add_task("preparing", total=None)
    return live
