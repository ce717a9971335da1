"""What control networks add to a denoiser's inputs while one picture is sampled: at every call, or once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.errors import UsageError
from sdmobile.families.component import Role

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.families.component import Arrays, Component
    from sdmobile.families.family import Family
    from sdmobile.formats.bundle.contracts import Geometry

    Call = Callable[[str, Arrays, int | None, float | None], dict[str, NDArray[Any]]]


class Controls:
    """The control networks of a family, with the picture that controls; without any, they add nothing.

    Args:
        family: which may have one.
        geometry: the sizes of the pipeline.
        picture: [1, 3, H, W] in [0, 1]; None for the family's example.
        call: computes a component: its name, its inputs, and the step and timestep that it belongs to.

    Raises:
        UsageError: a picture for a family without a control network.
    """

    def __init__(self, family: Family, geometry: Geometry, picture: NDArray[np.float32] | None, call: Call) -> None:
        if family.control is None and picture is not None:
            raise UsageError("a picture that controls needs a model with a control network", family.title)
        self._family, self._geometry, self._given, self._call = family, geometry, picture, call

    @cached_property
    def _picture(self) -> NDArray[np.float32]:
        """The picture that controls; one that nobody asks for is not made."""
        return self._family.example_condition(self._geometry) if self._given is None else self._given

    def once(self) -> dict[str, NDArray[Any]]:
        """Returns what goes into every call of the denoiser, one row."""
        return self._of_role(Role.PLUGIN, {}, None, None)

    def at(self, inputs: Arrays, step: int, timestep: float) -> dict[str, NDArray[Any]]:
        """Returns what goes into one call of the denoiser, beside its other inputs."""
        return self._of_role(Role.CONTROL, inputs, step, timestep)

    def _of_role(self, role: Role, inputs: Arrays, step: int | None, timestep: float | None) -> dict[str, NDArray[Any]]:
        added: dict[str, NDArray[Any]] = {}
        for part in self._family.of_role(role):
            added |= self._call(part.name, self._inputs(part, inputs), step, timestep)
        return added

    def _inputs(self, part: Component, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Returns a control network's inputs: those of the denoiser that it takes, and the picture in every row."""
        *shared, picture = (value.name for value in part.inputs)
        rows = inputs[shared[0]].shape[0] if shared else 1
        return {**{name: inputs[name] for name in shared}, picture: np.repeat(self._picture, rows, axis=0)}
