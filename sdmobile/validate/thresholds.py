"""The one place that says what counts as parity.

| what | default | why |
|---|---|---|
| component | 35 dB PSNR | the gate of Apple's converter (`ABSOLUTE_MIN_PSNR` in apple/ml-stable-diffusion) |
| image | 35 dB PSNR | the same figure for the picture that a whole sampling run ends in |
| non-finite values | 0 | one NaN or infinity in a latent blackens the picture |

float16 weights alone leave 70 to 85 dB on the components of Stable Diffusion, so 35 dB leaves room for quantised
weights and none for a wrong layer. The latents along a trajectory are reported and plotted but not judged: the picture
is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdmobile.validate.metrics import Metrics

COMPONENT_DB = 35.0
IMAGE_DB = 35.0
NON_FINITE = 0


@dataclass(frozen=True)
class Thresholds:
    """What a bundle must reach.

    Args:
        component_db: least PSNR in dB of every recorded sample of every component.
        image_db: least PSNR in dB of every final image.
        non_finite: most non-finite values in any output.
    """

    component_db: float = COMPONENT_DB
    image_db: float = IMAGE_DB
    non_finite: int = NON_FINITE

    def component_passes(self, metrics: Metrics) -> bool:
        """Whether a component's worst figures are good enough; NaN never is."""
        return metrics.non_finite <= self.non_finite and metrics.psnr_db >= self.component_db

    def image_passes(self, psnr_db: float, non_finite: int) -> bool:
        """Whether a final image is good enough; NaN never is."""
        return non_finite <= self.non_finite and not math.isnan(psnr_db) and psnr_db >= self.image_db

    def to_json(self) -> dict[str, float | int]:
        """Returns the three numbers."""
        return {"component_db": self.component_db, "image_db": self.image_db, "non_finite": self.non_finite}
