"""The processes that export components: forked from one that has the libraries imported, or started afresh."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from sdmobile.basics.tether import tethered

if TYPE_CHECKING:
    from types import TracebackType

_log = logging.getLogger("sdmobile.workers")


class Child(Protocol):
    """What is needed of a process under way; `subprocess.Popen` has it."""

    pid: int
    stdout: IO[str] | None
    stderr: IO[str] | None

    def poll(self) -> int | None:
        """Returns the exit code, negative for a signal; None while it runs."""
        ...

    def wait(self) -> int:
        """Returns the exit code when there is one."""
        ...


def cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fresh(order: Path, result: Path, scratch: Path) -> subprocess.Popen[str]:
    """Starts a worker that imports everything itself; what converters put aside goes with the scratch folder."""
    # A session of its own: Ctrl-C reaches this process only, which then ends the child and all its threads.
    return subprocess.Popen(
        tethered([sys.executable, "-m", "sdmobile.exporters.worker", str(order), str(result)]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        errors="replace",
        env={**os.environ, "TMPDIR": str(scratch.absolute())},
    )


class Workers:
    """A server that forks the workers of one target; it begins to import at once, and what asks for a worker waits.

    Args:
        target: decides which libraries are imported.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self._fresh: list[subprocess.Popen[str]] = []
        self._channel: socket.socket | None = None
        self._server: subprocess.Popen[str] | None = None
        if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
            return
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._server = subprocess.Popen(
                tethered([sys.executable, "-m", "sdmobile.exporters.fork_server", target, str(theirs.fileno())]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
                pass_fds=(theirs.fileno(),),
            )
        threading.Thread(target=_log_lines, args=(self._server.stderr,), daemon=True).start()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, order: Path, result: Path, scratch: Path, threads: int) -> Child:
        """Starts a worker: a fork, or a fresh process where there is no server or it is gone.

        Args:
            order: file with the job.
            result: the file that the worker writes its record to.
            scratch: what converters put aside goes there.
            threads: of PyTorch in a fork, at most.
        """
        forked = self._forked(order, result, scratch, threads)
        if forked is not None:
            return forked
        self._fresh.append(fresh(order, result, scratch))
        return self._fresh[-1]

    def close(self) -> None:
        """Ends every worker, and the server."""
        for child in self._fresh:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
        if self._channel is None or self._server is None:
            return
        self._channel.close()
        if self._server.poll() is None:
            os.killpg(self._server.pid, signal.SIGKILL)
        self._server.wait()
        self._channel = self._server = None

    def _forked(self, order: Path, result: Path, scratch: Path, threads: int) -> Child | None:
        if self._channel is None:
            return None
        request = {
            "order": str(order.absolute()),
            "result": str(result.absolute()),
            "tmp": str(scratch.absolute()),
            "threads": threads,
        }
        pipes = [os.pipe() for _ in range(3)]
        try:
            socket.send_fds(self._channel, [json.dumps(request).encode()], [theirs for _, theirs in pipes])
        except OSError:
            for ours, _ in pipes:
                os.close(ours)
            return None
        finally:
            for _, theirs in pipes:
                os.close(theirs)
        child = Forked(*(ours for ours, _ in pipes))
        return child if child.pid else None


class Forked:
    """A worker that the server forked, and whose end the server tells.

    Args:
        stdout, stderr: pipes to read what it prints.
        reply: pipe on which the server says its number and its exit code.
    """

    def __init__(self, stdout: int, stderr: int, reply: int) -> None:
        self.stdout: IO[str] | None = os.fdopen(stdout, encoding="utf-8", errors="replace")
        self.stderr: IO[str] | None = os.fdopen(stderr, encoding="utf-8", errors="replace")
        self._reply = os.fdopen(reply, "rb", buffering=0)
        self._code: int | None = None
        self.pid = int(self._told() or 0)
        if not self.pid:
            self.stdout.close()
            self.stderr.close()

    def poll(self) -> int | None:
        """Returns the exit code, negative for a signal; None while it runs."""
        if self._code is None and select.select([self._reply], [], [], 0)[0]:
            self.wait()
        return self._code

    def wait(self) -> int:
        """Returns the exit code when there is one; a server that is gone has taken its workers along."""
        if self._code is None:
            told = self._told()
            self._code = -signal.SIGKILL if told is None else int(told)
        return self._code

    def _told(self) -> str | None:
        """Returns the number on the next line; None, and closes the pipe, if there is none."""
        line = self._reply.readline().split()
        if not line or line[0] == b"code":
            self._reply.close()
        return line[1].decode() if line else None


def _log_lines(stream: IO[str]) -> None:
    with suppress(ValueError, OSError):  # it was closed
        for line in stream:
            _log.debug("%s", line.rstrip())
