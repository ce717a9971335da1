"""Stops a process before every system call that changes a file, one after the other, and looks at what it leaves.

The action runs in a forked child with an audit hook (PEP 578), which sees every rename, unlink, mkdir, open for writing
and lock that goes through Python; those of `basics.renames` that do not are counted with them. Before the k-th the
child is killed, or the call fails as on a full disk, or a signal arrives.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sdmobile.basics import renames

Action = Callable[[], object]
_CHANGES = frozenset(
    f"os.{name}" for name in ("rename", "remove", "rmdir", "mkdir", "link", "symlink", "chmod", "truncate", "utime")
) | {"fcntl.flock", "fcntl.ioctl"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_DONE, _REFUSED, _INTERRUPTED, _FAULT = 0, 10, 11, 12


class Way(str, Enum):
    """What happens at the chosen step."""

    KILL = "kill"
    FULL_DISK = "full disk"
    SIGNAL = "signal"


@dataclass(frozen=True)
class Ending:
    """How the child ended.

    Args:
        steps: changes of files that it came to, the chosen one included.
        killed: by SIGKILL.
        refused: with an error that sdmobile explains; its exit code.
        interrupted: with KeyboardInterrupt.
        fault: any other exception, as text.
    """

    steps: int
    killed: bool
    refused: int | None
    interrupted: bool
    fault: str | None

    @property
    def done(self) -> bool:
        """Whether the action came to its end."""
        return not (self.killed or self.interrupted) and self.refused is None and self.fault is None


def every_stop(action: Callable[[], Action], way: Way, plain_renames: bool = False) -> Iterator[tuple[int, Ending]]:
    """Stops an action at its first step, at its second, and so on, until it comes to its end without being stopped.

    Args:
        action: prepares the folder and returns what to run; called for every stop.
        way: what happens at the step.
        plain_renames: take the system's flagged renames away.

    Yields:
        The step, and how the child ended; the caller looks at the folder in between.
    """
    step = 1
    while True:
        ending = run_stopped(action(), step, way, plain_renames)
        if ending.steps < step:
            assert ending.done, ending
            return
        yield step, ending
        step += 1


def run_stopped(action: Action, at: int, way: Way = Way.KILL, plain_renames: bool = False) -> Ending:
    """Runs an action in a forked child that is stopped at its `at`-th step; 0 never stops it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os._exit(_child(action, at, way, plain_renames, writing))
    os.close(writing)
    with open(reading, "rb") as stream:
        told = stream.read().decode(errors="replace").split("\n")
    status = os.waitpid(child, 0)[1]
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
    return Ending(
        steps=sum(line == "step" for line in told),
        killed=killed,
        refused=int(told[-2]) if code == _REFUSED else None,
        interrupted=code == _INTERRUPTED,
        fault=told[-2] if code == _FAULT or (code is None and not killed) else None,
    )


def _child(action: Action, at: int, way: Way, plain_renames: bool, writing: int) -> int:
    from sdmobile.basics.stopping import heed_signals
    from sdmobile.errors import SdmobileError

    _count_steps(at, way, writing)
    if plain_renames:
        renames._system_call = lambda: None  # pyright: ignore[reportPrivateUsage]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    heed_signals()
    try:
        action()
    except SdmobileError as error:
        os.write(writing, f"{error.exit_code}\n".encode())
        return _REFUSED
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BaseException as error:
        os.write(writing, f"{type(error).__name__}: {error}".replace("\n", " ").encode() + b"\n")
        return _FAULT
    return _DONE


def _count_steps(at: int, way: Way, writing: int) -> None:
    """Counts the changes of files in this process and stops it at one; each is a line in the pipe."""
    seen = 0

    def step() -> None:
        nonlocal seen
        seen += 1
        os.write(writing, b"step\n")
        if seen != at:
            return
        if way is Way.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if way is Way.SIGNAL:
            signal.raise_signal(signal.SIGTERM)
        if way is Way.FULL_DISK:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _CHANGES or (event == "open" and arguments[2] & _WRITING):
            step()

    flagged = renames._flagged  # pyright: ignore[reportPrivateUsage]

    def counted(*arguments: Any) -> bool:
        step()
        return flagged(*arguments)

    renames._flagged = counted  # pyright: ignore[reportPrivateUsage]
    sys.addaudithook(hook)
