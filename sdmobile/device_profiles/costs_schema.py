"""The tables [units.NAME] and [latency.NAME] of a profile: a compute unit's facts, and what was fitted for it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from sdmobile.device_profiles.fact import Fact, Strict
from sdmobile.device_profiles.runtime_rules.kernel import Category

Runtime = Literal["ml-drift", "tflite-gpu", "coreml-ne", "coreml-gpu", "xnnpack", "ml-drift-webgpu"]


class Unit(Strict):
    """A compute unit under one runtime: the table [units.NAME].

    Args:
        runtime: whose rules of fusion and kernel selection apply.
        gpu: the family of GPUs that Google's rules tell apart; None where it does not matter.
        element_bytes: size of an activation in memory.
        peak_macs: multiply-accumulates per second at the precision of the run.
        dram_bandwidth: peak of the memory, bytes per second.
        second_level, last_level: bytes of a CPU's caches; None for a unit whose kernels do not depend on them.
        guesses: the unit whose fitted values a fit of this one begins with, while nobody has measured it.
    """

    runtime: Runtime
    gpu: Literal["adreno6xx", "adreno7xx", "other"] | None = None
    element_bytes: Literal[2, 4] = 2
    peak_macs: Fact
    dram_bandwidth: Fact
    second_level: Fact | None = None
    last_level: Fact | None = None
    guesses: str | None = None


class Latency(Strict):
    """What a fit to measurements gave for a unit: the table [latency.NAME].

    Args:
        efficiency: fraction of the peak that each category of kernels reaches.
        bandwidth: achieved, bytes per second.
        dispatch: seconds per launch.
        fixed: seconds per inference.
        fetch_rate: vectors of four channels per second that the inner loops of a category fetch; it bounds kernels of
            which the engine's source tells the fetches, in place of the efficiency.
        reorder: share of the bandwidth that copies reach which move channels or change the rank; None for all of it.
        saturation: output items, of four channels each, at which half of the efficiency is reached; None: no such term.
        low, high: factors on a prediction that bound it, from predictions of rows left out; None where no row was.
        load_bandwidth: weight bytes per second when a model is loaded; unknown is allowed.
        compile: seconds per distinct kernel at the first load; unknown is allowed.
    """

    efficiency: dict[Category, Fact] = Field(min_length=1)
    bandwidth: Fact
    dispatch: Fact
    fixed: Fact
    fetch_rate: dict[Category, Fact] = Field(default_factory=dict)
    reorder: Fact | None = None
    saturation: Fact | None = None
    low: Fact | None = None
    high: Fact | None = None
    load_bandwidth: Fact | None = None
    compile: Fact | None = None

    @model_validator(mode="after")
    def _numbers(self) -> Latency:
        needed = {"bandwidth": self.bandwidth, "dispatch": self.dispatch, "fixed": self.fixed}
        needed |= {f"efficiency.{k}": v for k, v in self.efficiency.items()}
        optional = {"low": self.low, "high": self.high}
        needed |= {name: fact for name, fact in optional.items() if fact is not None}
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval has both low and high")
        for name, fact in needed.items():
            if not isinstance(fact.value, int | float) or fact.value < 0:
                raise ValueError(f"{name} must be a number that is not negative")
        rates = {"bandwidth": self.bandwidth, "reorder": self.reorder, "load_bandwidth": self.load_bandwidth}
        rates |= {f"fetch_rate.{category}": fact for category, fact in self.fetch_rate.items()}
        for name, fact in rates.items():
            if fact is not None and fact.value is not None and not _positive(fact):
                raise ValueError(f"{name} must be a number above zero: it divides")
        return self


def _positive(fact: Fact) -> bool:
    return isinstance(fact.value, int | float) and fact.value > 0
