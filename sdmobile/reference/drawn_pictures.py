"""A picture that is drawn, not sampled, and the latent that an autoencoder makes of it.

It stands for what a component of the autoencoder meets where no sampling run is to be had: glossy highlights and hard
edges, which are known to drive the values of such networks up, beside smooth colours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families.component import Role

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.families.streams import ArrayNetwork, Observed
    from sdmobile.formats.bundle.contracts import Geometry


def drawn_input(checkpoint: Checkpoint, component: str, geometry: Geometry, pixels: int) -> NDArray[np.float32]:
    """Returns the canonical input of a half of the autoencoder: the picture, or its latent, unscaled.

    Args:
        checkpoint: the checkpoint.
        component: its decoder or image encoder.
        geometry: the sizes of the export.
        pixels: most of them on a side, in whole latent cells.

    Raises:
        UnsupportedError: the autoencoder cannot be run on NumPy arrays.
    """
    encoder = encoder_beside(checkpoint, component)
    if encoder is None:
        across = geometry.image_height // geometry.latent_height
        most = max(1, pixels // across)
        sides = (across * min(size, most) for size in (geometry.latent_height, geometry.latent_width))
        return highlights(*sides)
    picture = drawn_input(checkpoint, encoder, geometry, pixels)
    return latent(run_arrays(checkpoint, encoder, picture)[1], geometry)


def encoder_beside(checkpoint: Checkpoint, component: str) -> str | None:
    """Returns the image encoder of the same autoencoder; None for an image encoder."""
    family = checkpoint.family
    part = family.component(component)
    if part.role is Role.IMAGE_ENCODER:
        return None
    (encoder,) = (one.name for one in family.of_role(Role.IMAGE_ENCODER) if one.model == part.model)
    return encoder


def latent(moments: NDArray[np.float32], geometry: Geometry) -> NDArray[np.float32]:
    """Returns the mean of the distribution that an encoder gives, (1, C, h, w) of (1, 2·C, h, w)."""
    return moments[:, : geometry.latent_channels]


def array_network(checkpoint: Checkpoint, component: str) -> ArrayNetwork | None:
    """Returns what runs a component on NumPy arrays, None where there is nothing of the kind."""
    part = checkpoint.family.component(component)
    info = checkpoint.components[part.model]
    return part.arrays(info.config, info.tensors.keys())


def run_arrays(checkpoint: Checkpoint, component: str, inputs: NDArray[np.float32]) -> Observed:
    """Runs a component without PyTorch and returns the largest magnitude of each stream, and the output.

    Args:
        checkpoint: the checkpoint; the component's weights are read, in float32.
        component: of it.
        inputs: canonical.

    Raises:
        CheckpointError: a weight is not finite or of another shape, or a file is corrupt.
        UnsupportedError: it cannot be run on NumPy arrays.
    """
    from threadpoolctl import threadpool_limits

    from sdmobile.checkpoints.arrays import model_arrays

    network = array_network(checkpoint, component)
    if network is None:
        raise UnsupportedError("only a KL autoencoder runs on NumPy arrays", component)
    model = checkpoint.family.component(component).model
    weights = dict(model_arrays(checkpoint, model, network.weights))
    # Products are small: two threads wait for each other, and with a busy core that took twenty times as long.
    try:
        with threadpool_limits(1, user_api="blas"):
            return network.observe(weights, inputs)
    except (ValueError, IndexError) as error:
        raise CheckpointError(f"the weights of {model} must have the shapes of its architecture", error) from error


def highlights(rows: int, columns: int) -> NDArray[np.float32]:
    """Returns white discs with dark rims on a smooth ground, (1, 3, rows, columns) in [-1, 1]."""
    y, x = np.mgrid[0:rows, 0:columns]
    y, x = (y + 0.5) / rows, (x + 0.5) / columns
    picture = np.stack([0.8 * np.sin(3.0 * x), 0.6 * np.cos(2.0 * y + x), 0.8 * np.sin(2.0 * x * y)])
    for centre_y, centre_x, radius in ((0.25, 0.3, 0.16), (0.7, 0.75, 0.1), (0.75, 0.2, 0.04), (0.2, 0.8, 0.02)):
        distance = np.hypot(y - centre_y, x - centre_x)
        picture = np.where(distance < 1.3 * radius, -1.0, picture)
        picture = np.where(distance < radius, 1.0, picture)
    return picture[None].astype(np.float32)
