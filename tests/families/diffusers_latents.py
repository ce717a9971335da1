"""What Diffusers' own pipelines make of a request, step by step, and how near to it is the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sdmobile.reference.sampling import SampleRequest


def diffusers_latents(pipeline: Any, request: SampleRequest, *arguments: Any, **more: Any) -> list[np.ndarray]:
    """Runs a pipeline of Diffusers and returns the latent after every step.

    Args:
        pipeline: in float32, with its scheduler.
        request: prompt, steps and guidance scale; its negative text, where it has one.
        arguments, more: what the pipeline takes besides.
    """
    pipeline.set_progress_bar_config(disable=True)
    seen: list[np.ndarray] = []

    def keep(_pipe: Any, _step: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
        seen.append(values["latents"].numpy())
        return values

    pipeline(
        *((request.prompt, *arguments) if arguments else ()),
        **({} if arguments else {"prompt": request.prompt}),
        **({"negative_prompt": request.negative} if request.negative else {}),
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        output_type="latent",
        callback_on_step_end=keep,
        **more,
    )
    return seen


def assert_same(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> None:
    """Asserts that latents agree at every step within 10⁻⁴, of the largest value where that is above 1."""
    assert len(ours) == len(theirs) > 0
    for given, wanted in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(given, wanted, atol=1e-4 * max(1.0, float(np.abs(wanted).max())))
