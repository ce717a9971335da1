"""Reads a profile's TOML file and says in plain words what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.basics.untrusted import UntrustedError, parse_toml, read_bounded
from sdmobile.device_profiles.model import DeviceProfile
from sdmobile.errors import EXIT_CHECKPOINT, SdmobileError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_MAX_FILE = 1 << 20
_FACT_FIELDS = "value (left out if unknown), unit, source, reliability (high, medium, low or unknown)"


@dataclass(frozen=True)
class Problem:
    """What is wrong with one entry.

    Args:
        place: the entry, such as "units.gpu.peak_macs".
        rule: what must hold.
        value: what was found instead.
        fix: what to change.
    """

    place: str
    rule: str
    value: str
    fix: str

    @property
    def line(self) -> str:
        """All of it as one line."""
        return f"{self.place}: {self.rule} (found {self.value}). {self.fix}"


class ProfileError(SdmobileError):
    """A profile that cannot be read, or that breaks rules of profiles.

    Args:
        rule, value, fix: as of every error.
        problems: everything that is wrong.
    """

    exit_code = EXIT_CHECKPOINT

    def __init__(self, rule: str, value: object, fix: str | None = None, problems: Sequence[Problem] = ()) -> None:
        super().__init__(rule, value, fix)
        self.problems = tuple(problems)


def read_profile(path: Path) -> DeviceProfile:
    """Reads a profile.

    Raises:
        ProfileError: the file is missing, no TOML, or breaks rules; all of these are named at once.
    """
    from pydantic import ValidationError

    try:
        return DeviceProfile.model_validate(_read(path))
    except ValidationError as error:
        problems = [_problem(details) for details in error.errors()]
        listed = "; ".join(problem.line.rstrip(".") for problem in problems)
        raise ProfileError("the profile must keep the rules of profiles", f"{path}: {listed}", None, problems) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(read_bounded(path, _MAX_FILE))
    except UntrustedError as error:
        raise ProfileError("a profile must be a TOML file", f"{path}: {error}", "Correct that line.") from error
    except OSError as error:
        raise ProfileError(
            "the profile must be a file that can be read",
            f"{path}: {error.strerror}",
            "Copy one of `sdmobile devices show NAME --toml` and change it.",
        ) from error


def _problem(details: ErrorDetails) -> Problem:
    """Returns pydantic's message in the words of this project."""
    place = ".".join(str(part) for part in details["loc"]) or "the file"
    kind, found = details["type"], details["input"]
    shown = type(found).__name__ if isinstance(found, dict | list) else repr(found)
    if kind == "missing":
        return Problem(place, "the entry is needed", "nothing", _needed(details["loc"]))
    if kind == "extra_forbidden":
        return Problem(place, "no such entry is known", shown, "Remove it, or correct its name.")
    if kind == "literal_error":
        expected = (details.get("ctx") or {}).get("expected", "")
        return Problem(place, "the value must be a known one", shown, f"Known are {expected}.")
    if kind == "value_error":
        return Problem(place, details["msg"].removeprefix("Value error, "), shown, _consistent(details["msg"]))
    if kind == "model_type":
        return Problem(place, "the entry must be a table", shown, f"Write a table [{place}] with {_FACT_FIELDS}.")
    message = details["msg"]
    return Problem(place, message[0].lower() + message[1:], shown, "Correct the value.")


def _needed(place: Sequence[int | str]) -> str:
    last = place[-1] if place else ""
    if last == "source":
        return "Say where the value comes from; for an unknown one, what was looked for."
    if last == "reliability":
        return "Write high, medium, low or unknown."
    return "Add it; a value without a known number has no `value` and reliability unknown."


def _consistent(message: str) -> str:
    if "reliability" in message:
        return 'Add the value, or write reliability = "unknown".'
    return "Correct it, or leave the whole table out: without it, nothing is predicted for the unit."


_ARITHMETIC = ("conv", "depthwise", "matmul", "attention")
_NO_ATTENTION = ("xnnpack", "tflite-gpu")  # runtimes that know it as products and a softmax only


def remarks(profile: DeviceProfile) -> tuple[str, ...]:
    """Returns what a correct profile lacks for predictions, or what in it is odd."""
    found = [] if profile.units else ["no table [units.NAME]: nothing can be predicted for the device"]
    found += [
        f"units.{name}: no table [latency.{name}], so nothing is predicted for it"
        for name, unit in profile.units.items()
        if name not in profile.latency and unit.guesses is None
    ]
    for name, latency in profile.latency.items():
        needed = _ARITHMETIC[:-1] if profile.units[name].runtime in _NO_ATTENTION else _ARITHMETIC
        if missing := [category for category in needed if category not in latency.efficiency]:
            found.append(f"latency.{name}.efficiency: none for {', '.join(missing)}; graphs with these are refused")
        if profile.units[name].peak_macs.value is None:
            found.append(f"units.{name}.peak_macs is unknown, so nothing is predicted for it")
        if latency.low is None or latency.high is None:
            continue
        low, high = latency.low.value, latency.high.value
        if not (isinstance(low, int | float) and isinstance(high, int | float) and low <= 1.0 <= high):
            found.append(f"latency.{name}: low = {low} and high = {high} are factors around 1")
    memory = profile.hardware.get("app_memory")
    if memory is None:
        found.append("hardware.app_memory is missing: it cannot be said whether a bundle fits")
    elif memory.value is not None and memory.unit not in ("GB", "MB", "bytes"):
        found.append(f"hardware.app_memory has the unit {memory.unit!r}; it must be GB, MB or bytes")
    return tuple(found)
