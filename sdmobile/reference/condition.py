"""The pictures that control, read from files in the size of the pictures that are made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdmobile.errors import UsageError
from sdmobile.reference.pictures import read_pixels

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from sdmobile.formats.bundle.contracts import Geometry
    from sdmobile.reference.pipeline import PipelineSpec


def requested_conditions(spec: PipelineSpec, files: Sequence[Path]) -> tuple[NDArray[np.float32], ...]:
    """Returns the pictures that control, one for each control network of the pipeline.

    Args:
        spec: the pipeline.
        files: the pictures, in the order of the networks.

    Raises:
        UsageError: a picture without a control network, a network without a picture, or a file that is none.
    """
    networks = spec.family.controls
    if files and not networks:
        raise UsageError(
            "--control needs a control network",
            f"{spec.family.title} has none here",
            "Export with --control FOLDER, or give a checkpoint's network: --control-model FOLDER.",
        )
    if networks and not files:
        raise UsageError("a model with a control network needs a picture", "none was given", "Add --control IMAGE.")
    if len(files) != len(networks):
        names = ", ".join(control.name for control in networks)
        raise UsageError(
            f"each control network needs a picture of its own: {names}",
            f"{len(files)} given",
            "Give --control IMAGE once for each, in this order.",
        )
    return tuple(read_condition(file, spec.geometry) for file in files)


def read_condition(file: Path, geometry: Geometry) -> NDArray[np.float32]:
    """Returns a picture as a control network takes it, [1, 3, H, W] in [0, 1].

    Args:
        file: a PNG, JPEG, WebP or BMP file; another size is resized if it has the same ratio of width and height.
        geometry: the size of the pictures that are made.

    Raises:
        UsageError: it cannot be read, or has another ratio.
    """
    return condition_of(read_pixels(file, (geometry.image_width, geometry.image_height)))


def condition_of(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns pixels, [H, W, 3], as a control network takes them, [1, 3, H, W] in [0, 1]."""
    import numpy as np

    scaled: NDArray[np.float32] = pixels.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(scaled)
