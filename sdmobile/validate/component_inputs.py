"""Inputs of one component from a short real sampling run, in the layout of its target."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from sdmobile.checkpoints import Checkpoint
    from sdmobile.exporters.contracts import Contract, Geometry

STEPS = 2


def recorded_inputs(
    checkpoint: Checkpoint, contract: Contract, geometry: Geometry, guidance: str = "batch2", most: int = 2
) -> list[tuple[torch.Tensor, ...]]:
    """Samples one picture with the float32 reference and returns what it gave to a component.

    Args:
        checkpoint: the checkpoint.
        contract: names the component, and gives order, layout and types of its inputs.
        geometry: the sizes of the export.
        guidance: "batch2" or "separate".
        most: number of inputs at most.

    Returns:
        Tuples of tensors as the captured program takes them: for a UNet, of the first and of the last timestep.
    """
    from sdmobile.validate.recording import DEFAULT_PROMPTS, record
    from sdmobile.validate.runners import TorchRunner
    from sdmobile.validate.sampling import PipelineSpec, SampleRequest

    spec = replace(PipelineSpec.from_checkpoint(checkpoint, guidance), geometry=geometry)
    request = SampleRequest(DEFAULT_PROMPTS[1], steps=STEPS, guidance_scale=spec.guidance_scale)
    runner = TorchRunner(checkpoint, geometry)
    found = record(runner, spec, [request], [contract.component], most, whole_runs=False)
    samples = found.samples[contract.component]
    return [tuple(map(torch.from_numpy, contract.to_target(sample.inputs).values())) for sample in samples]
