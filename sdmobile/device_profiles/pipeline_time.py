"""Arithmetic of a whole image: text encoder, denoising steps, decoder, and the two ways to guide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sdmobile.device_profiles.latency import Prediction

Guidance = Literal["none", "batch2", "two_calls"]
_UNET_CALLS = {"none": 1, "batch2": 1, "two_calls": 2}


@dataclass(frozen=True)
class ImageTime:
    """Predicted seconds of one image.

    Args:
        text: all calls of the text encoder.
        unet: all calls of the UNet.
        decoder: the one call of the decoder.
        low, high: interval; the errors of the parts are taken as common, so that the bounds add up.
    """

    text: float
    unet: float
    decoder: float
    low: float
    high: float

    @property
    def seconds(self) -> float:
        """Of the image."""
        return self.text + self.unet + self.decoder

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object; every number in it is predicted."""
        return {"predicted": True, "seconds": self.seconds, **vars(self)}


def end_to_end(
    text: Prediction,
    unet: Prediction,
    decoder: Prediction,
    steps: int,
    guidance: Guidance,
    text_calls: int | None = None,
) -> ImageTime:
    """Returns the time of one image; the scheduler's own arithmetic on the CPU is not in it.

    Args:
        text: one call of the text encoder.
        unet: one call of the UNet, of batch 2 for guidance "batch2", else of batch 1.
        decoder: one call of the decoder.
        steps: denoising steps.
        guidance: "none", one call of batch 2 per step, or two calls of batch 1 per step.
        text_calls: None for one per prompt: the prompt and, with guidance, the empty one.
    """
    calls = steps * _UNET_CALLS[guidance]
    texts = text_calls if text_calls is not None else (1 if guidance == "none" else 2)

    def total(part: str) -> float:
        return texts * getattr(text, part) + calls * getattr(unet, part) + getattr(decoder, part)

    return ImageTime(texts * text.seconds, calls * unet.seconds, decoder.seconds, total("low"), total("high"))


def guidance_seconds(single: Prediction, batch2: Prediction) -> dict[str, float]:
    """Returns the seconds of one guided step: two calls at batch 1, and one at batch 2.

    They differ by more than dispatches: Google's current engine counts the tiles of all images when it decides about
    Winograd's method (google-ai-edge/ml-drift ml_drift/common/winograd_util.cc).
    """
    return {"two_calls": 2 * single.seconds, "batch2": batch2.seconds}
