"""Inputs to calibrate and to judge with: recorded on real runs of the float32 reference, with different prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.formats.bundle.contracts import Contract, Geometry
from sdmobile.quantize.sensitivity_study import (
    ANALYSIS_PROMPTS,
    SELECTION_PROMPTS,
    SELECTION_SEED,
    recording_of,
    requests_for,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.formats.bundle.writing import Part
    from sdmobile.reference.recording import RecordedSample, Recording

STEPS = 10
CALIBRATION_SAMPLES, JUDGING_SAMPLES = 15, 6


@dataclass
class RecordedInputs:
    """Recorded calls of every component; sampled when they are first asked for, then kept.

    Args:
        checkpoint: the source of the bundle.
        geometry: the sizes of its files.
        guidance: one of the family's.
        folder: cache of recordings, None for none.
    """

    checkpoint: Checkpoint
    geometry: Geometry
    guidance: str
    folder: Path | None = None
    _made: dict[str, Recording] = field(default_factory=dict, repr=False)

    def calibration(self, component: str) -> list[RecordedSample]:
        """Returns calls to take ranges from: three prompts, early to late timesteps."""
        return self._recording(ANALYSIS_PROMPTS, 0, CALIBRATION_SAMPLES).samples[component]

    def judging(self, component: str) -> list[RecordedSample]:
        """Returns calls to judge layers with: two other prompts and seeds."""
        return self._recording(SELECTION_PROMPTS, SELECTION_SEED, JUDGING_SAMPLES).samples[component]

    def settings(self) -> dict[str, Any]:
        """Returns what decides the calls, as JSON."""
        return {
            "steps": STEPS,
            "calibration": {"prompts": list(ANALYSIS_PROMPTS), "seed": 0, "samples": CALIBRATION_SAMPLES},
            "judging": {"prompts": list(SELECTION_PROMPTS), "seed": SELECTION_SEED, "samples": JUDGING_SAMPLES},
        }

    def _recording(self, prompts: Sequence[str], seed: int, most: int) -> Recording:
        if prompts[0] not in self._made:
            self._made[prompts[0]] = self._record(prompts, seed, most)
        return self._made[prompts[0]]

    def _record(self, prompts: Sequence[str], seed: int, most: int) -> Recording:
        from sdmobile.reference.pipeline import PipelineSpec

        spec = PipelineSpec.from_checkpoint(self.checkpoint, self.guidance).sized(self.geometry)
        requests = requests_for(self.checkpoint, prompts, STEPS, seed)
        return recording_of(self.checkpoint, spec, requests, self.checkpoint.family.names, most, self.folder)


def file_inputs(samples: Sequence[RecordedSample], part: Part, file: str) -> Iterator[dict[str, NDArray[Any]]]:
    """Yields recorded calls as a file takes them; one that follows others in a chain gets what those return.

    Args:
        samples: canonical calls of the component.
        part: the uncompressed component.
        file: which one.
    """
    from sdmobile.runtimes.mlprogram import MLProgram

    record = part.record
    chain = [Contract.from_json(contract) for contract in record.get("chain") or [record["contract"]]]
    index = [contract.file_name for contract in chain].index(file)
    before = [(contract, MLProgram(part.path(contract.file_name))) for contract in chain[:index]]
    for sample in samples:
        values = dict(sample.inputs)
        for contract, program in before:
            values.update(contract.from_target(program.predict(contract.to_target(values))))
        yield chain[index].to_target(values)
