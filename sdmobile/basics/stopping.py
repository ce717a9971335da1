"""Ctrl-C, `kill` and a closed terminal: all stop a command in the same way, and none in the middle of a move."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_received: list[int] = []


def heed_signals() -> None:
    """Lets each of `SIGNALS` raise KeyboardInterrupt; one that is ignored (`nohup`, `&` in a script) stays so."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)


def stopped_by() -> int | None:
    """Returns the signal that stopped this process, or None."""
    return _received[-1] if _received else None


def exit_code() -> int:
    """Returns 128 + the signal's number, as shells do; 130 where no signal was noted."""
    return 128 + (stopped_by() or signal.SIGINT)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    _received.append(number)
    raise KeyboardInterrupt


@contextmanager
def undisturbed() -> Iterator[None]:
    """Holds signals back during a few file operations that belong together; they arrive afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives signals
        return
    held: list[int] = []
    before = {number: handler for number in SIGNALS if (handler := signal.getsignal(number)) is not None}
    before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    for number in before:
        signal.signal(number, lambda received, _: held.append(received))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])
