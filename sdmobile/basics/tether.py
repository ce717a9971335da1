"""Child processes that end with the process that started them, however that ends.

This file is also the program that a child starts as: `python tether.py PARENT COMMAND…`. It needs nothing but the
standard library, so that it is there in milliseconds.

On Linux it asks the kernel for SIGKILL at its parent's death, which holds beyond `exec`, and becomes the command
(prctl(2), PR_SET_PDEATHSIG). Elsewhere it stays, waits for the command and watches its parent.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys

_PR_SET_PDEATHSIG = 1
_LOOK_EVERY = 0.1
_NOT_FOUND = 127


def tethered(command: list[str]) -> list[str]:
    """Returns the command line that runs a command for no longer than this process lives.

    It is to be started with `start_new_session=True`: where the kernel cannot help, the session is what is killed.
    """
    return [sys.executable, "-I", "-S", os.path.abspath(__file__), str(os.getpid()), *command]


def end_with_parent(parent: int) -> bool:
    """Lets the kernel kill this process when the thread that started it ends; returns whether that is there."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent  # else it died before the line above


def main(arguments: list[str]) -> int:
    """Runs `COMMAND…` of `PARENT COMMAND…` and returns its exit code, if it returns."""
    parent, command = int(arguments[0]), arguments[1:]
    for name in ("SIGPIPE", "SIGXFSZ"):  # Python ignores them, and `exec` hands that on
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    if sys.platform == "linux":
        if not end_with_parent(parent):
            return 128 + signal.SIGKILL
        try:
            os.execvp(command[0], command)
        except OSError as error:
            print(f"{command[0]}: {error.strerror}", file=sys.stderr)
            return _NOT_FOUND
    return _watch(parent, command)


def _watch(parent: int, command: list[str]) -> int:
    """Waits for the command; kills it and its session when the parent is gone."""
    try:
        child = subprocess.Popen(command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return _NOT_FOUND
    while os.getppid() == parent:
        try:
            code = child.wait(_LOOK_EVERY)
        except subprocess.TimeoutExpired:
            continue
        if code < 0:  # ends as the command did
            os.kill(os.getpid(), -code)
        return code
    child.kill()
    if os.getsid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    return 128 + signal.SIGKILL


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
