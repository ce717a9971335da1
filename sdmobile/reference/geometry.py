"""The sizes of an export."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdmobile.errors import UnsupportedError
from sdmobile.formats.bundle.contracts import Geometry

if TYPE_CHECKING:
    from sdmobile.checkpoints import Checkpoint

Resolution = int | tuple[int, int]
"""Height and width of a picture in pixels; one number where they are the same."""
_MOST_PIXELS = 8192


def geometry_for(checkpoint: Checkpoint, guidance: str | None, resolution: Resolution | None = None) -> Geometry:
    """Returns the sizes of an export.

    Args:
        checkpoint: gives the latent and context sizes.
        guidance: one of the family's, None for its default.
        resolution: of the picture, None for the checkpoint's own.

    Raises:
        UnsupportedError: an unknown guidance, or a resolution that is no multiple of the VAE's scale factor (times
            the denoiser's patches), or too large.
    """
    rows = checkpoint.family.guidance(guidance).rows
    factor, most = checkpoint.vae_scale_factor, checkpoint.latent_most
    multiple = factor * checkpoint.latent_multiple
    limit = _MOST_PIXELS if most is None else min(_MOST_PIXELS, factor * most)
    sides = checkpoint.image_size if resolution is None else resolution
    height, width = (_checked(side, multiple, limit) for side in ((sides, sides) if isinstance(sides, int) else sides))
    return Geometry(
        batch=rows,
        latent_channels=checkpoint.latent_channels,
        latent_height=height // factor,
        latent_width=width // factor,
        image_height=height,
        image_width=width,
        context_length=checkpoint.context_length,
        context_dim=checkpoint.context_dim,
        sizes=checkpoint.sizes,
    )


def _checked(pixels: int, factor: int, most: int) -> int:
    """Returns the side of a picture; raises UnsupportedError for one that no latent has."""
    if pixels > most:
        raise UnsupportedError(f"the resolution must be at most {most} pixels", pixels)
    if pixels <= 0 or pixels % factor:
        nearest = max(factor, round(pixels / factor) * factor)
        raise UnsupportedError(
            f"the resolution must be a positive multiple of {factor} pixels, the size of a latent cell",
            pixels,
            f"Use {nearest}",
        )
    return pixels
