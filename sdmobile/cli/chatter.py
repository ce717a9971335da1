"""What libraries print stays off the terminal: Python's warnings, progress bars, and native code that writes to fd 2.

    fd 2 (sys.stderr, native code, child processes) ──▶ a log without a name
    output.own_stderr()                             ──▶ where fd 2 led before

The log is shown where it is the only word that is left: at a fault, and at a crash of native code, which a small
process that outlives this one notices. `--debug` keeps nothing aside.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, TYPE_CHECKING, NoReturn

from sdmobile.basics.stopping import SIGNALS
from sdmobile.cli import output

if TYPE_CHECKING:
    from collections.abc import Iterator

_STDERR = 2
_TAIL_LINES, _TAIL_BYTES, _LINE = 40, 1 << 16, 300
_CRASHED = "error: the command was killed, or native code crashed; the last lines that libraries printed:"


@contextmanager
def put_aside() -> Iterator[IO[bytes] | None]:
    """Keeps aside what anybody but the command itself prints to stderr, and yields the log; None where that fails.

    It is for a whole process: what is printed to stderr after the block is lost.
    """
    with ExitStack() as stack:
        try:
            log = stack.enter_context(tempfile.TemporaryFile())
            terminal = stack.enter_context(
                open(os.dup(_STDERR), "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")
            )
        except (OSError, AttributeError):  # no room for a log, or no stderr: all goes where it went
            yield None
            return
        os.dup2(log.fileno(), _STDERR)  # to the end of the process: libraries print when it ends, too
        output.use_stream(terminal)
        try:
            with _watched(log, terminal):
                yield log
        finally:
            output.use_stream(None)


def tail(log: IO[bytes] | None) -> str:
    """Returns the last lines of the log, "" if there is none or nothing was printed."""
    if log is None:
        return ""
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    end = os.fstat(log.fileno()).st_size
    text = os.pread(log.fileno(), _TAIL_BYTES, max(0, end - _TAIL_BYTES)).decode("utf-8", "replace")
    return "\n".join(line[:_LINE] for line in text.splitlines()[-_TAIL_LINES:])


def listen_to_ourselves() -> None:
    """Prints what sdmobile logs: warnings to the terminal, the words of worker processes where libraries print."""
    logger = logging.getLogger("sdmobile")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(_Words())


class _Words(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            output.warning(record.getMessage())
        else:
            print(record.getMessage(), file=sys.stderr, flush=True)


@contextmanager
def _watched(log: IO[bytes], terminal: IO[str]) -> Iterator[None]:
    """Shows the log's end on the terminal if the process ends within the block without leaving it."""
    if not hasattr(os, "fork"):
        yield
        return
    faulthandler.enable(_STDERR, all_threads=False)
    read, write = os.pipe()
    watcher = os.fork()
    if watcher == 0:
        os.close(write)
        _watch(read, log, terminal)
    os.close(read)
    try:
        yield
    finally:
        with suppress(OSError):
            os.write(write, b".")
            os.waitpid(watcher, 0)
        os.close(write)
        faulthandler.disable()


def _watch(read: int, log: IO[bytes], terminal: IO[str]) -> NoReturn:
    """Waits, in a process of its own, for the end of the other."""
    try:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if os.read(read, 1) == b"" and (words := tail(log)):
            terminal.write(f"{_CRASHED}\n{words}\n")
            terminal.flush()
    finally:
        os._exit(0)
