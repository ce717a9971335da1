"""Arithmetic of a whole image: text encoder, denoising steps, decoder, and the two ways to guide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sdmobile.prediction.latency import Prediction

Guidance = Literal["none", "batch2", "two_calls"]
_UNET_CALLS = {"none": 1, "batch2": 1, "two_calls": 2}


@dataclass(frozen=True)
class ImageTime:
    """Predicted seconds of one image.

    Args:
        text: all calls of the encoders: of texts and, for inpainting, of the picture.
        unet: all calls of the UNet.
        decoder: the one call of the decoder.
        low, high: interval; the errors of the parts are taken as common, so that the bounds add up. None without one.
    """

    text: float
    unet: float
    decoder: float
    low: float | None
    high: float | None

    @property
    def seconds(self) -> float:
        """Of the image."""
        return self.text + self.unet + self.decoder

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object; every number in it is predicted."""
        return {"predicted": True, "seconds": self.seconds, **vars(self)}


@dataclass(frozen=True)
class Turns:
    """Predicted seconds of an image with the time that files take to load.

    Args:
        loading: the way to load.
        first: of the first image, everything from the file on.
        further: of each image after it.
    """

    loading: str
    first: float
    further: float

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object; every number in it is predicted."""
        return {
            "predicted": True,
            "loading": self.loading,
            "first_seconds": self.first,
            "further_seconds": self.further,
        }


@dataclass(frozen=True)
class Loaded:
    """What loading a component takes.

    Args:
        files: it consists of.
        calls: in one image.
        seconds: to load and to compile all its files once.
    """

    files: int
    calls: int
    seconds: float


def turns(image: float, parts: Sequence[Loaded]) -> tuple[Turns, Turns]:
    """Returns the time of an image where all files stay loaded, and where one file at a time is in memory.

    all at once:   first = image + Σ load,                 further = image
    one at a time: first = further = image + Σ load · n,   n = calls where a component has several files, else 1

    Args:
        image: seconds of an image whose files are loaded.
        parts: of the components that it needs.
    """
    once = sum(part.seconds for part in parts)
    each = sum(part.seconds * (part.calls if part.files > 1 else 1) for part in parts)
    return Turns("all at once", image + once, image), Turns("one at a time", image + each, image + each)


Calls = Sequence[tuple[Prediction, int]]
"""Predictions of single calls, and how often each is called for one image."""


def image_time(text: Calls, unet: Calls, decoder: Calls) -> ImageTime:
    """Returns the time of one image; the scheduler's own arithmetic on the CPU is not in it.

    Args:
        text: of the encoders.
        unet: of the denoiser, whose batch is that of the guidance.
        decoder: of the decoder.
    """

    def total(calls: Calls) -> float:
        return sum(count * prediction.seconds for prediction, count in calls)

    def bound(part: str) -> float | None:
        bounds = [(getattr(prediction, part), count) for prediction, count in (*text, *unet, *decoder)]
        return None if any(one is None for one, _ in bounds) else sum(one * count for one, count in bounds)

    return ImageTime(total(text), total(unet), total(decoder), bound("low"), bound("high"))


def end_to_end(
    text: Prediction,
    unet: Prediction,
    decoder: Prediction,
    steps: int,
    guidance: Guidance,
    text_calls: int | None = None,
) -> ImageTime:
    """Returns the time of one image of a pipeline of three components.

    Args:
        text: one call of the text encoder.
        unet: one call of the UNet, of batch 2 for guidance "batch2", else of batch 1.
        decoder: one call of the decoder.
        steps: denoising steps.
        guidance: "none", one call of batch 2 per step, or two calls of batch 1 per step.
        text_calls: None for one per prompt: the prompt and, with guidance, the empty one.
    """
    texts = text_calls if text_calls is not None else (1 if guidance == "none" else 2)
    return image_time([(text, texts)], [(unet, steps * _UNET_CALLS[guidance])], [(decoder, 1)])
