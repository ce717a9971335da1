"""The two comparisons: one component on recorded inputs, and one whole run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdmobile.basics import metrics
from sdmobile.basics.metrics import image_ssim
from sdmobile.basics.words import describe
from sdmobile.checkpoints.shapes64.obedience import judge
from sdmobile.validate.checks import ComponentCheck, SampleCheck, Status, TrajectoryCheck

if TYPE_CHECKING:
    from sdmobile.reference.recording import RecordedSample
    from sdmobile.reference.sampling import SampleResult
    from sdmobile.runtimes import Runner
    from sdmobile.validate.thresholds import Thresholds


def check_component(
    runner: Runner,
    component: str,
    samples: Sequence[RecordedSample],
    thresholds: Thresholds,
    compressed: bool = False,
) -> ComponentCheck:
    """Runs recorded inputs through one file and compares its outputs with the reference's.

    An exception of the runtime becomes the check's error, so that it does not hide what other components do.

    Args:
        runner: what runs the file.
        component: canonical name.
        samples: recorded calls of the reference.
        thresholds: what must be reached.
        compressed: whether the file's weights have fewer bits than float16.
    """
    limits = thresholds.limits(component, runner.name, compressed)
    rows: list[SampleCheck] = []
    try:
        for sample in samples:
            started = time.perf_counter()
            outputs = runner.run(component, sample.inputs)
            seconds = time.perf_counter() - started
            figures = metrics.worst(metrics.compare(sample.outputs[name], outputs[name]) for name in sample.outputs)
            rows.append(SampleCheck(sample.key, sample.label, figures, seconds))
    except Exception as error:
        return ComponentCheck(component, runner.name, Status.ERROR, tuple(rows), None, describe(error))
    finally:
        runner.release(component)
    if not rows:
        return ComponentCheck(component, runner.name, Status.ERROR, (), None, "no inputs were recorded")
    worst = metrics.worst(row.metrics for row in rows)
    status = Status.PASSED if limits.component_passes(worst) else Status.FAILED
    return ComponentCheck(component, runner.name, status, tuple(rows), worst, limits=limits)


def compare_runs(
    reference: SampleResult, run: SampleResult, runtime: str, thresholds: Thresholds, captions: bool = False
) -> TrajectoryCheck:
    """Compares two runs with the same seed step by step, and their pictures.

    Args:
        reference: by float32 torch.
        run: by the bundle's files.
        runtime: what ran them.
        thresholds: what must be reached.
        captions: judge whether the pictures show what the prompt says, as far as the checker can read it.
    """
    limits = thresholds.limits(None, runtime)
    latents = tuple(metrics.psnr(a, b) for a, b in zip(reference.latents, run.latents, strict=True))
    errors = tuple(metrics.rmse(a, b) for a, b in zip(reference.latents, run.latents, strict=True))
    bad = sum(metrics.non_finite(latent) for latent in run.latents) + metrics.non_finite(run.image)
    image, ssim = metrics.image_psnr(reference.image, run.image), image_ssim(reference.image, run.image)
    obedience = judge(reference.request.prompt, reference.image, run.image) if captions else None
    passed = limits.image_passes(image, ssim, bad) and (obedience is None or obedience.kept)
    return TrajectoryCheck(
        prompt=reference.request.prompt,
        seed=reference.request.seed,
        runtime=runtime,
        status=Status.PASSED if passed else Status.FAILED,
        timesteps=tuple(reference.timesteps),
        latent_psnr_db=latents,
        latent_rmse=errors,
        image_psnr_db=image,
        image_ssim=ssim,
        obedience=obedience,
        non_finite=bad,
        seconds=sum(run.seconds.values()),
        limits=limits,
    )
