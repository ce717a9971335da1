"""The schema of a device profile: every value carries its source and how far it can be trusted."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Reliability = Literal["high", "medium", "low", "unknown"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Fact(_Strict):
    """One value.

    Args:
        value: None where nobody has published or measured it.
        unit: unit of the value, empty for a name or a count.
        source: where it comes from; for an unknown value, what was looked for.
        reliability: "unknown" exactly where value is None.
    """

    value: float | int | str | None = None
    unit: str = ""
    source: str = Field(min_length=1)
    reliability: Reliability

    @model_validator(mode="after")
    def _unknown_has_no_value(self) -> Fact:
        if (self.value is None) != (self.reliability == "unknown"):
            raise ValueError("a value is missing exactly where its reliability is unknown")
        return self


class Forms(_Strict):
    """Which of several equal forms of an operation suits the device's runtime."""

    group_norm: Fact
    attention: Fact
    weights: Fact
    deployment_target: Fact | None = None


class Limits(_Strict):
    """What a bundle must stay below.

    Args:
        file_bytes: largest model file.
        buffer_bytes: largest tensor that the GPU can bind as one buffer.
    """

    file_bytes: Fact
    buffer_bytes: Fact


class DeviceProfile(_Strict):
    """A device, the runtime it is exported for, and the facts about it."""

    schema_version: Literal[1]
    name: str
    title: str
    target: Literal["ios", "android", "onnx"]
    chip: str
    forms: Forms
    limits: Limits
    hardware: dict[str, Fact] = Field(default_factory=dict)

    @property
    def deployment_target(self) -> str | None:
        """Oldest system that must load the file, such as "iOS17"; None where the target has no such notion."""
        fact = self.forms.deployment_target
        return None if fact is None or fact.value is None else str(fact.value)

    @property
    def max_file_bytes(self) -> int | None:
        """Largest model file, None where there is no known limit."""
        value = self.limits.file_bytes.value
        return None if value is None else int(value)

    @property
    def max_buffer_bytes(self) -> int | None:
        """Largest single tensor for the GPU, None where it is not known."""
        value = self.limits.buffer_bytes.value
        return None if value is None else int(value)
