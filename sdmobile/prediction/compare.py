"""All facts of a profile under their full names, and two devices side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from sdmobile.device_profiles.fact import Fact
from sdmobile.device_profiles.model import DeviceProfile
from sdmobile.device_profiles.runtime_rules.attention_forms import AttentionRow


@dataclass(frozen=True)
class Difference:
    """A fact of two devices.

    Args:
        name: such as "hardware.ram".
        left, right: of the two, None where the profile has no such fact.
    """

    name: str
    left: Fact | None
    right: Fact | None

    @property
    def equal(self) -> bool:
        """Whether both have the same value and unit."""
        return _shown(self.left) == _shown(self.right)

    def to_json(self) -> dict[str, Any]:
        """Returns both facts with their sources."""
        sides = {"left": self.left, "right": self.right}
        return {"name": self.name, "equal": self.equal} | {
            side: None if fact is None else fact.model_dump() for side, fact in sides.items()
        }


def facts(profile: DeviceProfile) -> dict[str, Fact]:
    """Returns every fact of a profile by its full name, in the order of the schema."""
    return dict(_walk(profile, ""))


def differences(left: DeviceProfile, right: DeviceProfile) -> tuple[Difference, ...]:
    """Returns the facts of two devices side by side, those of the left one first."""
    ours, theirs = facts(left), facts(right)
    return tuple(Difference(name, ours.get(name), theirs.get(name)) for name in {**ours, **theirs})


def _shown(fact: Fact | None) -> tuple[object, str] | None:
    return None if fact is None else (fact.value, fact.unit)


def _walk(value: Any, name: str) -> Iterator[tuple[str, Fact]]:
    if isinstance(value, Fact):
        yield name, value
    elif isinstance(value, AttentionRow):
        yield name, Fact(value=_condition(value), source=value.source, reliability=value.reliability)
    elif isinstance(value, BaseModel):
        for field in type(value).model_fields:
            yield from _walk(getattr(value, field), _under(name, field))
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _walk(entry, _under(name, key))
    elif isinstance(value, tuple):
        for number, entry in enumerate(value, 1):
            yield from _walk(entry, _under(name, str(number)))


def _under(name: str, field: str) -> str:
    return f"{name}.{field}" if name else field


def _condition(row: AttentionRow) -> str:
    """A row of the choice of attention: the form, and when."""
    conditions = row.model_dump(exclude_defaults=True, exclude={"form", "source", "reliability"})
    words = ", ".join(f"{key} {value}" for key, value in conditions.items())
    return f"{row.form} if {words}" if words else row.form
