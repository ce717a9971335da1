"""Shows the stages of an export as they happen: one line each on stderr, a live one where that is a terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType


class StageView:
    """Prints stage events; to be used as a context manager.

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
