"""Scales for float16, told from a drawn picture: without PyTorch, and alike wherever they are needed.

a small picture ─▶ largest value of each stream ─┬─ far below float16's range ─▶ no scales
                                                 └─ near ─▶ a larger picture ─▶ `scales_for`
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from sdmobile.reference.drawn_pictures import array_network, drawn_input, encoder_beside, latent, run_arrays
from sdmobile.reference.float16_scales import LIMIT, Float16Scales, scales_for

if TYPE_CHECKING:
    from sdmobile.checkpoints import Checkpoint
    from sdmobile.families.streams import Observed
    from sdmobile.formats.bundle.contracts import Geometry

DRAWN = "a drawn picture"
SMALL, LARGE = 64, 256  # pixels on a side
GROWTH = 4.0
"""How much larger a value is held possible in the larger picture; at most twice was measured (docs/float16.md)."""


def drawn_scales(checkpoint: Checkpoint, components: Sequence[str], geometry: Geometry) -> dict[str, Float16Scales]:
    """Returns what keeps each component's streams within float16's range; nothing for one without streams.

    Args:
        checkpoint: the checkpoint.
        components: of it; an encoder that the decoder needs is run once for both.
        geometry: the sizes of the export.

    Raises:
        CheckpointError: a weight is not finite, or a file is corrupt.
    """
    peaks = stream_peaks(checkpoint, components, geometry)
    return {component: scales_for(found, DRAWN) for component, found in peaks.items()}


def stream_peaks(checkpoint: Checkpoint, components: Sequence[str], geometry: Geometry) -> dict[str, dict[str, float]]:
    """Returns the largest magnitude in each stream of each component that has any; see `drawn_scales`."""

    @cache
    def look(component: str, pixels: int) -> Observed:
        encoder = encoder_beside(checkpoint, component)
        if encoder is None:
            return run_arrays(checkpoint, component, drawn_input(checkpoint, component, geometry, pixels))
        return run_arrays(checkpoint, component, latent(look(encoder, pixels)[1], geometry))

    found = {name: look(name, SMALL)[0] for name in components if array_network(checkpoint, name) is not None}
    if max(geometry.image_height, geometry.image_width) <= SMALL:
        return found
    near = [name for name, peaks in found.items() if max(peaks.values()) * GROWTH > LIMIT]
    return found | {name: look(name, LARGE)[0] for name in near}
