"""A device's compute unit, chosen for a bundle's files, and how its runtime keeps weights and tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sdmobile.basics.words import meant
from sdmobile.device_profiles import load_profile
from sdmobile.device_profiles.costs_schema import Latency, Runtime, Unit
from sdmobile.device_profiles.fact import Fact, Reliability
from sdmobile.device_profiles.model import DeviceProfile
from sdmobile.device_profiles.runtime_rules.attention_kernels import KernelRules
from sdmobile.errors import UnsupportedError
from sdmobile.prediction.latency import UnitModel, unit_model
from sdmobile.prediction.memory import CORE_ML, ML_DRIFT, XNNPACK, Storage
from sdmobile.prediction.memory_budget import allowed_bytes

Held = Literal["stored", "decompressed"]
# From iOS 17 on the Neural Engine takes compressed weights (runtime_rules/core_ml.py, PALETTES_STAY); for the other
# runtimes nothing says so, and the larger number is the careful one.
_KEEPS: dict[Runtime, tuple[Storage, Held]] = {
    "coreml-ne": (CORE_ML, "stored"),
    "coreml-gpu": (CORE_ML, "decompressed"),
    "ml-drift": (ML_DRIFT, "decompressed"),
    "tflite-gpu": (ML_DRIFT, "decompressed"),
    "xnnpack": (XNNPACK, "decompressed"),
    "ml-drift-webgpu": (ML_DRIFT, "decompressed"),
}
_TRUST: tuple[Reliability, ...] = ("unknown", "low", "medium", "high")


@dataclass(frozen=True)
class ChosenUnit:
    """A compute unit of a device for which latency can be predicted.

    Args:
        profile: the device.
        name: of the unit.
    """

    profile: DeviceProfile
    name: str

    @property
    def unit(self) -> Unit:
        """Its facts."""
        return self.profile.units[self.name]

    @property
    def latency(self) -> Latency:
        """What was fitted for it; before any fit, what one begins with."""
        return self.profile.latency.get(self.name) or _guessed(self.profile, self.unit)

    @property
    def model(self) -> UnitModel:
        """Its latency model."""
        return unit_model(self.name, self.unit, self.latency)

    @property
    def rules(self) -> KernelRules | None:
        """How its engine chooses a kernel for attention, None for the engine's own numbers."""
        return self.profile.forms.attention.kernels

    @property
    def storage(self) -> Storage:
        """How its runtime keeps intermediate tensors."""
        return _KEEPS[self.unit.runtime][0]

    @property
    def weights_held(self) -> Held:
        """How its runtime keeps weights."""
        return _KEEPS[self.unit.runtime][1]

    @property
    def ram_bytes(self) -> int | None:
        """The device's memory, None if it is not known."""
        return allowed_bytes(self.profile.hardware.get("ram"))

    @property
    def reliability(self) -> Reliability:
        """The least of all values that a prediction uses."""
        used = {fact.reliability for fact in self._named().values()}
        return next(level for level in _TRUST if level in used)

    @property
    def sources(self) -> dict[str, str]:
        """Where the values of the latency model come from: names of values, joined, to their source."""
        by_source: dict[str, list[str]] = {}
        for name, fact in self._named().items():
            by_source.setdefault(fact.source, []).append(name)
        return {", ".join(names): source for source, names in by_source.items()}

    def require(self, target: str) -> None:
        """Checks that the unit's runtime runs a target's files.

        Raises:
            UnsupportedError: it does not.
        """
        if runs(self.unit) == target:
            return
        others = [name for name in predictable(self.profile) if runs(self.profile.units[name]) == target]
        choice = f"choose --unit {others[0]}, or " if others else ""
        raise UnsupportedError(
            f"{self.profile.name} ({self.name}) runs bundles for {runs(self.unit)}",
            f"this bundle is for {target}",
            f"To fix it, {choice}export again with --target {runs(self.unit)}, or name a --device for {target}",
        )

    def to_json(self) -> dict[str, Any]:
        """Returns device, unit and how far the predictions can be trusted."""
        return {
            "device": self.profile.name,
            "unit": self.name,
            "runtime": self.unit.runtime,
            "reliability": self.reliability,
            "interval": None if self.model.low is None else [self.model.low, self.model.high],
            "sources": self.sources,
        }

    def _named(self) -> dict[str, Fact]:
        latency, optional = self.latency, ("low", "high", "reorder", "saturation", "load_bandwidth", "compile")
        facts = {"peak_macs": self.unit.peak_macs, "bandwidth": latency.bandwidth}
        facts |= {"dispatch": latency.dispatch, "fixed": latency.fixed}
        facts |= {f"efficiency.{name}": fact for name, fact in latency.efficiency.items()}
        facts |= {f"fetch_rate.{name}": fact for name, fact in latency.fetch_rate.items()}
        return facts | {name: fact for name in optional if (fact := getattr(latency, name)) and fact.value is not None}


def runs(unit: Unit) -> str:
    """Returns the target whose files a unit's runtime runs."""
    return "ios" if unit.runtime.startswith("coreml") else "android"


def _guessed(profile: DeviceProfile, unit: Unit) -> Latency:
    """Returns another unit's values as guesses: trusted little, and without an interval or a time to load."""
    known = profile.latency[str(unit.guesses)].model_dump(exclude={"low", "high", "load_bandwidth", "compile"})

    def doubted(facts: dict[str, Any]) -> dict[str, Any]:
        if "reliability" not in facts:
            return {name: fact and doubted(fact) for name, fact in facts.items()}
        return facts | {"reliability": "low", "source": f"a guess, the value of {unit.guesses}: {facts['source']}"}

    return Latency.model_validate(doubted(known))


def predictable(profile: DeviceProfile) -> tuple[str, ...]:
    """Returns the units for which latency can be predicted, the default one first."""
    return tuple(name for name in profile.units if name in profile.latency)


def choose_unit(device: str | DeviceProfile, unit: str | None = None, to_fit: bool = False) -> ChosenUnit:
    """Returns a device's unit.

    Args:
        device: name, path of a TOML file, or profile.
        unit: name; None for the first one.
        to_fit: units that nobody has measured yet will do.

    Raises:
        UnsupportedError: no such device or unit, or none for which latency can be predicted.
    """
    profile = load_profile(device) if isinstance(device, str) else device
    known = predictable(profile)
    if not known:
        raise UnsupportedError(
            "a prediction needs a device with tables [units.NAME] and [latency.NAME]",
            f"{profile.name} has none",
            f"Predictions are possible for {', '.join(_devices())}",
        )
    open_ones = tuple(name for name, one in profile.units.items() if one.guesses and name not in known)
    if unit in open_ones and not to_fit:
        raise UnsupportedError(
            f"a prediction needs times of {profile.name}, {unit}",
            "nobody has measured any",
            f"Measure on the phone (sdmobile serve BUNDLE) and fit: sdmobile devices fit {profile.name} --unit {unit}",
        )
    if unit is not None and unit not in (*known, *open_ones):
        names = (*known, *open_ones) if to_fit else known
        raise UnsupportedError(
            f"the unit must be one of {profile.name}", unit, meant(unit, names, f"Known are {', '.join(names)}")
        )
    return ChosenUnit(profile, unit or known[0])


def _devices() -> list[str]:
    from sdmobile.device_profiles import list_profiles

    return [name for name in list_profiles() if predictable(load_profile(name))]
