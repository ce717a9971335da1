"""Finds an Android phone with `adb` and runs programs on it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdmobile.errors import MissingDependencyError, ResourceError

TIMEOUT = 600.0  # seconds; a full-size UNet on a slow CPU takes minutes
_STATES = {
    "unauthorized": "Allow USB debugging in the dialog on the phone.",
    "offline": "Plug it in again, or run `adb reconnect`.",
}


@dataclass(frozen=True)
class Phone:
    """A connected phone.

    Args:
        adb: path of the adb program.
        serial: serial number.
        model: name of the model, as the phone says it.
        android: version of Android.
    """

    adb: str
    serial: str
    model: str
    android: str

    @property
    def title(self) -> str:
        """The phone for people."""
        return f"{self.model} (Android {self.android}, {self.serial})"

    def push(self, file: Path, target: str) -> None:
        """Copies a file to the phone.

        Raises:
            ResourceError: it could not be copied.
        """
        _checked(_run([self.adb, "-s", self.serial, "push", str(file), target], TIMEOUT))

    def shell(self, command: Sequence[str], timeout: float = TIMEOUT) -> str:
        """Runs a command on the phone and returns what it prints, errors included.

        Raises:
            ResourceError: it failed, or took too long.
        """
        line = shlex.join(command) + " 2>&1"
        return _checked(_run([self.adb, "-s", self.serial, "shell", line], timeout))


def find_phone(serial: str | None = None) -> Phone:
    """Returns the connected phone.

    Args:
        serial: which one, if several are connected.

    Raises:
        MissingDependencyError: there is no adb.
        ResourceError: no phone is connected, it is not ready, or there are several and none was named.
    """
    adb = shutil.which("adb")
    if adb is None:
        raise MissingDependencyError(
            "running files on a phone needs adb",
            "no `adb` on the PATH",
            "Install Android's platform-tools, or leave --benchmark-model out.",
        )
    states = _devices(_checked(_run([adb, "devices"], 30.0)))
    if not states:
        raise ResourceError(
            "a phone must be connected", "adb sees none", "Connect it by USB and switch USB debugging on."
        )
    if serial is None and len(states) > 1:
        raise ResourceError("one phone must be chosen", ", ".join(states), "Name it: --adb-serial SERIAL.")
    chosen = serial or next(iter(states))
    state = states.get(chosen)
    if state is None:
        raise ResourceError("the phone must be connected", f"{chosen}; adb sees {', '.join(states)}")
    if state != "device":
        raise ResourceError("the phone must be ready", f"{chosen} is {state}", _STATES.get(state))
    model, android = (
        _checked(_run([adb, "-s", chosen, "shell", f"getprop {name}"], 30.0)).strip()
        for name in ("ro.product.model", "ro.build.version.release")
    )
    return Phone(adb, chosen, model, android)


def _devices(listing: str) -> dict[str, str]:
    """Returns serial number to state from what `adb devices` prints: a title, then one line per device."""
    rows = (line.split() for line in listing.splitlines() if not line.startswith(("List of devices", "*")))
    return {row[0]: row[1] for row in rows if len(row) >= 2}


def _run(command: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise ResourceError("the phone must answer in time", f"{timeout:.0f} s passed: {' '.join(command)}") from error


def _checked(result: subprocess.CompletedProcess[str]) -> str:
    if result.returncode != 0:
        last = (result.stderr.strip() or result.stdout.strip()).splitlines()[-3:]
        raise ResourceError(
            f"`{' '.join(result.args[1:])}` must succeed", f"exit code {result.returncode}: {' | '.join(last)}"
        )
    return result.stdout
