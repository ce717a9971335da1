"""The two comparisons: one component on recorded inputs, and one whole run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdmobile.errors import SdmobileError
from sdmobile.validate import metrics
from sdmobile.validate.results import ERROR, FAILED, PASSED, ComponentCheck, SampleCheck, TrajectoryCheck

if TYPE_CHECKING:
    from sdmobile.validate.recording import RecordedSample
    from sdmobile.validate.runners import Runner
    from sdmobile.validate.sampling import SampleResult
    from sdmobile.validate.thresholds import Thresholds


def check_component(
    runner: Runner, component: str, samples: Sequence[RecordedSample], thresholds: Thresholds
) -> ComponentCheck:
    """Runs recorded inputs through one file and compares its outputs with the reference's.

    An exception of the runtime becomes the check's error, so that it does not hide what other components do.
    """
    rows: list[SampleCheck] = []
    try:
        for sample in samples:
            started = time.perf_counter()
            outputs = runner.run(component, sample.inputs)
            seconds = time.perf_counter() - started
            figures = metrics.worst(metrics.compare(sample.outputs[name], outputs[name]) for name in sample.outputs)
            rows.append(SampleCheck(sample.key, sample.label, figures, seconds))
    except Exception as error:
        return ComponentCheck(component, runner.name, ERROR, tuple(rows), None, describe(error))
    finally:
        runner.release(component)
    if not rows:
        return ComponentCheck(component, runner.name, ERROR, (), None, "no inputs were recorded")
    worst = metrics.worst(row.metrics for row in rows)
    status = PASSED if thresholds.component_passes(worst) else FAILED
    return ComponentCheck(component, runner.name, status, tuple(rows), worst)


def compare_runs(reference: SampleResult, run: SampleResult, runtime: str, thresholds: Thresholds) -> TrajectoryCheck:
    """Compares two runs with the same seed step by step, and their pictures."""
    latents = tuple(metrics.psnr(a, b) for a, b in zip(reference.latents, run.latents, strict=True))
    bad = sum(metrics.non_finite(latent) for latent in run.latents) + metrics.non_finite(run.image)
    image = metrics.image_psnr(reference.image, run.image)
    return TrajectoryCheck(
        prompt=reference.request.prompt,
        seed=reference.request.seed,
        runtime=runtime,
        status=PASSED if thresholds.image_passes(image, bad) else FAILED,
        timesteps=tuple(reference.timesteps),
        latent_psnr_db=latents,
        image_psnr_db=image,
        non_finite=bad,
        seconds=sum(run.seconds.values()),
    )


def describe(error: Exception) -> str:
    """Returns an error as one line; unexpected ones with their type."""
    return error.message() if isinstance(error, SdmobileError) else f"{type(error).__name__}: {error}"
