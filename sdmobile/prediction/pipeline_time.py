"""Arithmetic of a whole image: text encoder, denoising steps, decoder, and the two ways to guide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sdmobile.device_profiles.costs_schema import Unit
from sdmobile.formats.graph.graph import FileGraph
from sdmobile.prediction.kernels import kernels_of
from sdmobile.prediction.latency import Prediction, UnitModel, predict

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


Calls = Sequence[tuple[Prediction, int]]
"""Predictions of single calls, and how often each is called for one image."""


def image_time(text: Calls, unet: Calls, decoder: Calls) -> ImageTime:
    """Returns the time of one image; the scheduler's own arithmetic on the CPU is not in it.

    Args:
        text: of the text encoders.
        unet: of the denoiser, whose batch is that of the guidance.
        decoder: of the decoder.
    """

    def total(calls: Calls, part: str = "seconds") -> float:
        return sum(count * getattr(prediction, part) for prediction, count in calls)

    every = [*text, *unet, *decoder]
    return ImageTime(total(text), total(unet), total(decoder), total(every, "low"), total(every, "high"))


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


@dataclass(frozen=True)
class GuidedStep:
    """One guided denoising step in both ways.

    Args:
        single: one call at batch 1; a step takes two.
        batch2: one call at batch 2.
    """

    single: Prediction
    batch2: Prediction

    def to_json(self) -> dict[str, Any]:
        """Returns the seconds of a step; every number is predicted."""
        return {"predicted": True, "two_calls": 2 * self.single.seconds, "batch2": self.batch2.seconds}


def guided_step(single: FileGraph, batch2: FileGraph, unit: Unit, model: UnitModel) -> GuidedStep:
    """Predicts a guided step as two calls and as one call of both images.

    They differ by more than dispatches: Google's current engine counts the tiles of all images when it decides about
    Winograd's method (google-ai-edge/ml-drift ml_drift/common/winograd_util.cc).

    Args:
        single: the UNet at batch 1; `graph.batch.half_batch` makes it from the other one.
        batch2: the UNet at batch 2.
        unit: the compute unit's table.
        model: its latency model.
    """
    return GuidedStep(*(predict(kernels_of(graph, unit), model) for graph in (single, batch2)))
