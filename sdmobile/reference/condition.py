"""The picture that controls, read from a file in the size of the pictures that are made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdmobile.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from sdmobile.formats.bundle.contracts import Geometry
    from sdmobile.reference.sampling import PipelineSpec

_SHAPE_RULE = "the picture that controls must have the shape of the pictures that are made"
_MOST_PIXELS = 8192 * 8192


def requested_condition(spec: PipelineSpec, file: Path | None) -> NDArray[np.float32] | None:
    """Returns the picture that controls, where the pipeline has a control network.

    Args:
        spec: the pipeline.
        file: the picture, None where none was given.

    Raises:
        UsageError: a picture without a control network, a network without a picture, or a file that is none.
    """
    if spec.family.control is None and file is None:
        return None
    if file is None:
        raise UsageError("a model with a control network needs a picture", "none was given", "Add --control IMAGE.")
    if spec.family.control is None:
        raise UsageError(
            "--control needs a control network",
            f"{spec.family.title} has none here",
            "Export with --control FOLDER, or give a checkpoint's network: --control-model FOLDER.",
        )
    return read_condition(file, spec.geometry)


def read_condition(file: Path, geometry: Geometry) -> NDArray[np.float32]:
    """Returns a picture as a control network takes it, [1, 3, H, W] in [0, 1].

    Args:
        file: of any format that Pillow reads; another size is resized if it has the same ratio of width and height.
        geometry: the size of the pictures that are made.

    Raises:
        UsageError: it cannot be read, or has another ratio.
    """
    import numpy as np
    from PIL import Image

    wanted = geometry.image_width, geometry.image_height
    try:
        with Image.open(file) as picture:
            width, height = picture.size
            if width * height > _MOST_PIXELS:
                raise UsageError("the picture that controls has at most 67 million pixels", f"{width} × {height}")
            if width * wanted[1] != height * wanted[0]:
                raise UsageError(
                    _SHAPE_RULE, f"{file}: {width} × {height}, not {wanted[0]} × {wanted[1]}", "Cut it to that ratio."
                )
            pixels = picture.convert("RGB").resize(wanted, Image.Resampling.LANCZOS)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError("the picture that controls must be a readable picture", f"{file}: {error}") from error
    return condition_of(np.asarray(pixels))


def condition_of(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns pixels, [H, W, 3], as a control network takes them, [1, 3, H, W] in [0, 1]."""
    import numpy as np

    scaled: NDArray[np.float32] = pixels.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(scaled)
