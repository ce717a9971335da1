"""Calls of one component from a short real sampling run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from sdmobile.checkpoints import Checkpoint
    from sdmobile.formats.bundle.contracts import Contract, Geometry
    from sdmobile.reference.recording import RecordedSample

STEPS = 2


def recorded_samples(
    checkpoint: Checkpoint, component: str, geometry: Geometry, guidance: str | None = None, most: int = 2
) -> list[RecordedSample]:
    """Samples one picture with the float32 reference and returns calls of a component.

    Args:
        checkpoint: the checkpoint.
        component: canonical name.
        geometry: the sizes of the export.
        guidance: one of the family's, None for its default.
        most: number of calls at most; of a UNet, those at the first and at the last timestep.
    """
    from sdmobile.reference.pipeline import PipelineSpec
    from sdmobile.reference.recording import DEFAULT_PROMPTS, record
    from sdmobile.reference.sampling import SampleRequest
    from sdmobile.reference.torch_runner import TorchRunner

    spec = PipelineSpec.from_checkpoint(checkpoint, guidance).sized(geometry)
    request = SampleRequest(DEFAULT_PROMPTS[1], steps=STEPS, guidance_scale=spec.guidance_scale)
    recording = record(TorchRunner(checkpoint, geometry), spec, [request], [component], most, whole_runs=False)
    return recording.samples[component]


def as_tensors(contract: Contract, sample: RecordedSample) -> tuple[torch.Tensor, ...]:
    """Returns a recorded call's inputs as the captured program takes them."""
    return tuple(torch.from_numpy(array) for array in contract.to_target(sample.inputs).values())
