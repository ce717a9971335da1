"""Pictures that are drawn, not sampled, and the latents that an autoencoder makes of them.

They stand for what a component of the autoencoder meets where no sampling run is to be had: glossy highlights and hard
edges, which are known to drive the values of such networks up, beside smooth colours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.families.component import Role

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.formats.bundle.contracts import Geometry

MOST_PIXELS = 256  # on a side: enough for every layer's window, and small enough to be run before every export


def drawn_inputs(checkpoint: Checkpoint, component: str, geometry: Geometry) -> list[NDArray[np.float32]]:
    """Returns canonical inputs of a half of the autoencoder, of a smaller picture where the geometry's is large.

    Args:
        checkpoint: the checkpoint.
        component: its decoder or image encoder.
        geometry: the sizes of the export.
    """
    family = checkpoint.family
    across = geometry.image_height // geometry.latent_height
    rows, columns = (
        across * min(size, max(1, MOST_PIXELS // across)) for size in (geometry.latent_height, geometry.latent_width)
    )
    pictures = [highlights(rows, columns), edges(rows, columns)]
    part = family.component(component)
    if part.role is Role.IMAGE_ENCODER:
        return pictures
    (encoder,) = (one for one in family.of_role(Role.IMAGE_ENCODER) if one.model == part.model)
    return _latents(checkpoint, encoder.name, pictures, geometry.latent_channels)


def highlights(rows: int, columns: int) -> NDArray[np.float32]:
    """Returns white discs with dark rims on a smooth ground, (1, 3, rows, columns) in [-1, 1]."""
    y, x = _places(rows, columns)
    picture = np.stack([0.8 * np.sin(3.0 * x), 0.6 * np.cos(2.0 * y + x), 0.8 * np.sin(2.0 * x * y)])
    for centre_y, centre_x, radius in ((0.25, 0.3, 0.16), (0.7, 0.75, 0.1), (0.75, 0.2, 0.04), (0.2, 0.8, 0.02)):
        distance = np.hypot(y - centre_y, x - centre_x)
        picture = np.where(distance < 1.3 * radius, -1.0, picture)
        picture = np.where(distance < radius, 1.0, picture)
    return picture[None].astype(np.float32)


def edges(rows: int, columns: int) -> NDArray[np.float32]:
    """Returns bands of full colours above stripes that grow finer, (1, 3, rows, columns) in [-1, 1]."""
    y, x = _places(rows, columns)
    band = np.minimum((8 * x).astype(int), 7)
    colours = np.stack([1.0 - 2.0 * (band >> channel & 1) for channel in range(3)])
    stripes = np.where(np.sin(60.0 * x**2 + 8.0 * y) > 0, 1.0, -1.0)
    return np.where(y < 0.5, colours, stripes)[None].astype(np.float32)


def _places(rows: int, columns: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns the height and the place along a row of every pixel, from 0 to 1."""
    y, x = np.mgrid[0:rows, 0:columns]
    return (y + 0.5) / rows, (x + 0.5) / columns


def _latents(
    checkpoint: Checkpoint, encoder: str, pictures: list[NDArray[np.float32]], channels: int
) -> list[NDArray[np.float32]]:
    """Returns the mean of each picture's latents, unscaled."""
    import torch

    from sdmobile.reference.subject import wrapped_component

    module = wrapped_component(checkpoint, "onnx", encoder)
    with torch.no_grad():
        return [module(torch.from_numpy(picture))[:, :channels].numpy() for picture in pictures]
