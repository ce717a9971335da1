"""One value of a profile, with where it comes from and how far it can be trusted."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Reliability = Literal["high", "medium", "low", "unknown"]


class Strict(BaseModel):
    """A table that takes no unknown key."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Fact(Strict):
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
