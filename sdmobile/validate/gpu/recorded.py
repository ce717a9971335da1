"""Inputs for the GPU check of a bundle: a few calls of the reference, recorded while it samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdmobile.reference.recording import Recording, chosen_steps

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sdmobile.formats.bundle.reading import Bundle

    Progress = Callable[[str, int, int], None]


def record_inputs(
    bundle: Bundle,
    components: tuple[str, ...],
    reference: Path | None,
    steps: int,
    max_samples: int,
    progress: Progress | None = None,
) -> Recording:
    """Samples one picture with the bundle's checkpoint and keeps a few calls of each component.

    Args:
        bundle: the bundle; its pipeline decides the shapes.
        components: what to record.
        reference: the checkpoint, None for the one that ships with sdmobile.
        steps: scheduler steps.
        max_samples: most calls per component.
        progress: sees (what, done, all).

    Raises:
        CheckpointError: the reference is missing or another checkpoint.
    """
    from sdmobile.reference.recording import DEFAULT_PROMPTS, record
    from sdmobile.reference.resolve import resolve_reference
    from sdmobile.reference.sampling import PipelineSpec, SampleRequest
    from sdmobile.reference.torch_runner import TorchRunner

    spec = PipelineSpec.from_bundle(bundle)
    runner = TorchRunner(resolve_reference(bundle, reference), bundle.geometry)
    known = tuple(name for name in components if name in runner.components)
    request = SampleRequest(DEFAULT_PROMPTS[0], "", steps, 0, spec.guidance_scale, None)

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress("sampling with torch", done, total)

    return record(runner, spec, [request], known, max_samples, True, tell)


def limited(recording: Recording, most: int) -> Recording:
    """Returns the recording with at most so many samples per component, spread from the first to the last."""
    samples = {
        name: [kept[index] for index in sorted(chosen_steps(len(kept), most))] if kept else []
        for name, kept in recording.samples.items()
    }
    return Recording(samples, recording.runs)
