"""The schema of a device profile: every value carries its source and how far it can be trusted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from sdmobile.device_profiles.costs_schema import Latency, Runtime, Unit
from sdmobile.device_profiles.fact import Fact, Reliability, Strict
from sdmobile.device_profiles.runtime_rules.attention_forms import AttentionRow
from sdmobile.device_profiles.runtime_rules.attention_kernels import KernelRules

__all__ = ["Attention", "DeviceProfile", "Fact", "Forms", "Limits", "PlainForms", "Reliability"]

NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$"
"""Of a device or unit: both become names of files."""


class Attention(Strict):
    """How a device wants attention.

    Args:
        rows: forms and their conditions; the first row that fits an attention gives its form.
        element_bytes: size of a score on the device.
        budget_bytes: largest score tensor that is worth having; None for the limit of the device's buffers.
        inner: what the blocked form does within a block.
        query_block: most queries of one product of the split-einsum form; None for all.
        kernels: the numbers by which the runtime itself chooses a kernel; None if they are not known.
    """

    rows: tuple[AttentionRow, ...] = ()
    element_bytes: Literal[2, 4] = 2
    budget_bytes: int | None = None
    inner: Literal["softmax", "partial_softmax"] = "partial_softmax"
    query_block: int | None = None
    kernels: KernelRules | None = None


class Forms(Strict):
    """Which of several equal forms of an operation suits the device's runtime; "as_captured" leaves it alone."""

    group_norm: Fact
    layer_norm: Fact | None = None
    rms_norm: Fact | None = None
    geglu: Fact | None = None
    timestep: Fact | None = None
    channel_bias: Fact | None = None
    embedding: Fact | None = None
    convolution: Fact | None = None
    constants: Fact | None = None
    linear_attention: Fact | None = None
    attention: Attention = Attention()
    weights: Fact
    deployment_target: Fact | None = None

    def of(self, operation: str) -> str | None:
        """Returns the form of an operation; None where the profile does not name one."""
        fact = getattr(self, operation)
        return None if fact is None or fact.value is None else str(fact.value)


class PlainForms(Strict):
    """What takes the place of forms where composite operators shall not be used."""

    group_norm: Fact
    layer_norm: Fact
    rms_norm: Fact | None = None
    attention: Attention


class Limits(Strict):
    """What a bundle must stay below.

    Args:
        file_bytes: largest model file.
        buffer_bytes: largest tensor that the GPU can bind as one buffer.
        texture_rows: most rows of a texture, where the runtime keeps transformed weights in textures whatever their
            size; convolutions that would exceed it are cut.
        rank: most axes of a tensor; None where the runtime takes as many as PyTorch writes.
    """

    file_bytes: Fact
    buffer_bytes: Fact
    texture_rows: Fact | None = None
    rank: Fact | None = None


class DeviceProfile(Strict):
    """A device, the runtime it is exported for, and the facts about it.

    Args:
        plain: forms without composite operators; None where the forms have none anyway.
        units: compute units by name, the one that runs a bundle by default first.
        latency: what was fitted for a unit, by the unit's name.
    """

    schema_version: Literal[1]
    name: str = Field(pattern=NAME)
    title: str
    target: Literal["ios", "android", "onnx"]
    chip: str
    forms: Forms
    plain: PlainForms | None = None
    limits: Limits
    hardware: dict[str, Fact] = Field(default_factory=dict)
    units: dict[Annotated[str, StringConstraints(pattern=NAME)], Unit] = Field(default_factory=dict)
    latency: dict[str, Latency] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _latency_has_a_unit(self) -> DeviceProfile:
        if unknown := sorted(set(self.latency) - set(self.units)):
            raise ValueError(f"latency.{unknown[0]} has no table units.{unknown[0]}")
        for name, unit in self.units.items():
            if unit.guesses is not None and unit.guesses not in self.latency:
                raise ValueError(f"units.{name}.guesses names a unit without a table [latency.{unit.guesses}]")
        return self

    def deciding(self) -> DeviceProfile:
        """Returns the profile without what only describes the device or predicts its times.

        An export works with nothing else, so that a newly fitted number cannot change a file.
        """
        return self.model_copy(update={"title": "", "chip": "", "hardware": {}, "units": {}, "latency": {}})

    @property
    def runtime(self) -> Runtime | None:
        """Runtime of the unit that runs a bundle by default; None where the profile names no unit."""
        return next((unit.runtime for unit in self.units.values()), None)

    def chosen_forms(self, plain_ops: bool) -> Forms:
        """Returns the forms to use.

        Args:
            plain_ops: without composite operators.
        """
        if not plain_ops or self.plain is None:
            return self.forms
        return self.forms.model_copy(update=dict(self.plain))

    @property
    def deployment_target(self) -> str | None:
        """Oldest system that must load the file, such as "iOS17"; None where the target has no such notion."""
        return self.forms.of("deployment_target")

    @property
    def max_file_bytes(self) -> int | None:
        """Largest model file, None where there is no known limit."""
        value = self.limits.file_bytes.value
        return None if value is None else int(value)

    @property
    def max_texture_rows(self) -> int | None:
        """Most rows of a texture, None where no weights are bound by it or it is not known."""
        fact = self.limits.texture_rows
        return None if fact is None or fact.value is None else int(fact.value)

    @property
    def max_buffer_bytes(self) -> int | None:
        """Largest single tensor for the GPU, None where it is not known."""
        value = self.limits.buffer_bytes.value
        return None if value is None else int(value)

    @property
    def max_rank(self) -> int | None:
        """Most axes of a tensor, None where there is no known limit."""
        return None if self.limits.rank is None or self.limits.rank.value is None else int(self.limits.rank.value)
