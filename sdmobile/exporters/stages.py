"""Time and memory of each stage of an export."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sdmobile.basics.memory import peak_resident_bytes, resident_bytes

_INTERVAL = 0.05


@dataclass(frozen=True)
class StageRecord:
    """One finished stage.

    Args:
        name: what it did.
        seconds: wall time.
        peak_rss_bytes: largest resident set of the process while it ran.
        details: what it found or wrote.
    """

    name: str
    seconds: float
    peak_rss_bytes: int
    details: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as one flat JSON object."""
        return {
            "name": self.name,
            "seconds": round(self.seconds, 3),
            "peak_rss_bytes": self.peak_rss_bytes,
            **self.details,
        }


class StageLog:
    """Collects stage records and announces them.

    Args:
        announce: called with (stage, "start" | "end", seconds, peak_rss_bytes).
    """

    def __init__(self, announce: Callable[[str, str, float, int], None]) -> None:
        self.records: list[StageRecord] = []
        self.current: str | None = None
        self._announce = announce

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Measures the block; what it puts into the yielded dict becomes the record's details."""
        self.current = name
        self._announce(name, "start", 0.0, resident_bytes())
        details: dict[str, Any] = {}
        start = time.perf_counter()
        with _PeakWatch() as watch:
            yield details
        record = StageRecord(name, time.perf_counter() - start, watch.peak, details)
        self.records.append(record)
        self._announce(name, "end", record.seconds, record.peak_rss_bytes)


class _PeakWatch:
    """The largest resident set within a block.

    The kernel's own high-water mark is exact but never falls: where it rose in the block it is the answer, elsewhere
    samples are.
    """

    def __enter__(self) -> _PeakWatch:
        self._before = peak_resident_bytes()
        self.peak = resident_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._stop.wait(_INTERVAL):
            self.peak = max(self.peak, resident_bytes())

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        after = peak_resident_bytes()
        self.peak = after if after > self._before else max(self.peak, resident_bytes())
