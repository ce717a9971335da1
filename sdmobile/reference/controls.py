"""What control networks add to a denoiser's inputs while one picture is sampled: at every call, or once.

    r = Σ_k s_k·F_k(x_t, t, c, picture_k)          k of the networks, each with its own picture; s_k is in its file

As Diffusers' MultiControlNetModel; the phone's app sums.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.errors import UsageError
from sdmobile.families.component import Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sdmobile.families.component import Arrays, Component
    from sdmobile.families.family import Family
    from sdmobile.formats.bundle.contracts import Geometry

    Call = Callable[[str, Arrays, int | None, float | None], dict[str, NDArray[Any]]]


class Controls:
    """The control networks of a family, with the pictures that control; without any, they add nothing.

    Args:
        family: which may have some.
        geometry: the sizes of the pipeline.
        pictures: of each network, [1, 3, H, W] in [0, 1]; empty for the family's examples.
        call: computes a component: its name, its inputs, and the step and timestep that it belongs to.

    Raises:
        UsageError: not a picture for each of the family's control networks.
    """

    def __init__(self, family: Family, geometry: Geometry, pictures: Sequence[NDArray[np.float32]], call: Call) -> None:
        if pictures and not family.controls:
            raise UsageError("a picture that controls needs a model with a control network", family.title)
        if pictures and len(pictures) != len(family.controls):
            raise UsageError(
                f"each of {len(family.controls)} control networks needs a picture of its own", len(pictures)
            )
        self._family, self._geometry, self._given, self._call = family, geometry, pictures, call

    @cached_property
    def _pictures(self) -> Sequence[NDArray[np.float32]]:
        """The pictures that control; one that nobody asks for is not made."""
        if self._given:
            return self._given
        return [_example(self._geometry, index) for index in range(len(self._family.controls))]

    def once(self) -> dict[str, NDArray[Any]]:
        """Returns what goes into every call of the denoiser, one row."""
        return self._of_role(Role.PLUGIN, {}, None, None)

    def at(self, inputs: Arrays, step: int, timestep: float) -> dict[str, NDArray[Any]]:
        """Returns what goes into one call of the denoiser, beside its other inputs."""
        return self._of_role(Role.CONTROL, inputs, step, timestep)

    def _of_role(self, role: Role, inputs: Arrays, step: int | None, timestep: float | None) -> dict[str, NDArray[Any]]:
        added: dict[str, NDArray[Any]] = {}
        parts = self._family.of_role(role)
        for part, picture in zip(parts, self._pictures if parts else (), strict=True):
            outputs = self._call(part.name, self._inputs(part, inputs, picture), step, timestep)
            added = {name: added[name] + value if added else value for name, value in outputs.items()}
        return added

    def _inputs(self, part: Component, inputs: Arrays, picture: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Returns a control network's inputs: those of the denoiser that it takes, and its picture in every row."""
        *shared, condition = (value.name for value in part.inputs)
        rows = inputs[shared[0]].shape[0] if shared else 1
        return {**{name: inputs[name] for name in shared}, condition: np.repeat(picture, rows, axis=0)}


def _example(geometry: Geometry, index: int) -> NDArray[np.float32]:
    """Returns a picture that controls where none is given: a white disc on black in the middle, [1, 3, H, W].

    Its radius is a quarter of the width, half of that for the next network, and so on.

    Args:
        geometry: its size.
        index: of the control network.
    """
    rows, columns = (
        (np.arange(size) + 0.5 - size / 2) / geometry.image_width
        for size in (geometry.image_height, geometry.image_width)
    )
    inside = np.hypot(*np.meshgrid(rows, columns, indexing="ij")) < 0.5 ** (index + 2)
    return np.repeat(inside.astype(np.float32)[None, None], 3, axis=1)
