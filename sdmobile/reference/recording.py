"""Inputs of every component, recorded from a real sampling run of the torch reference.

Random inputs would not do: the ranges that overflow float16, and the ones that quantisation is judged on, are those of
real text features, real latents at early and late timesteps, and real pictures.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from sdmobile.basics.files import whole_file, write_json
from sdmobile.basics.untrusted import inside, parse_json, read_bounded
from sdmobile.errors import CheckpointError
from sdmobile.families.component import Role
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.sampling import (
    ComponentCall,
    Sampler,
    SampleRequest,
    SampleResult,
    sample_all,
    texts_of,
    timesteps_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from sdmobile.runtimes import Runner

DEFAULT_MAX_SAMPLES = 9
_MAX_INDEX = 1 << 24
# In the captions of the bundled checkpoint; any other text-to-image checkpoint understands them too.
DEFAULT_PROMPTS = (
    "a large red circle in the center on a white background",
    "a small blue square to the left of a large yellow triangle on a black background",
    "a picture of a small green cross at the top with a gray background",
)


@dataclass(frozen=True)
class RecordedSample:
    """One call of the reference.

    Args:
        component: canonical name.
        label: where in the run it happened, for people.
        inputs: canonical inputs.
        outputs: canonical outputs of float32 torch.
    """

    component: str
    label: str
    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, NDArray[Any]]

    @property
    def key(self) -> str:
        """Content address: the first 16 digits of the SHA-256 over names, types, shapes and bytes of the inputs."""
        return content_key(self.inputs)


@dataclass
class Recording:
    """A bounded set of recorded calls and the whole runs that they come from.

    Args:
        samples: by component.
        runs: the reference's results, one per request; empty where only text was encoded.
    """

    samples: dict[str, list[RecordedSample]] = field(default_factory=dict)
    runs: list[SampleResult] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Writes one .npz per sample, named by its content, and index.json; a file that is there already is kept."""
        folder.mkdir(parents=True, exist_ok=True)
        index = []
        for sample in (sample for samples in self.samples.values() for sample in samples):
            arrays = {f"input.{k}": v for k, v in sample.inputs.items()}
            arrays |= {f"output.{k}": v for k, v in sample.outputs.items()}
            name = f"{sample.component}-{sample.key}.npz"
            save_arrays(folder / name, arrays)
            index.append({"component": sample.component, "label": sample.label, "file": name})
        write_json(folder / INDEX, index)


INDEX = "index.json"


def save_arrays(file: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes an .npz whole or not at all; one that is there already is kept."""
    if not file.exists():
        with whole_file(file) as partial:
            np.savez(partial, **arrays)  # pyright: ignore[reportArgumentType]


def load_recording(folder: Path) -> Recording:
    """Reads what `Recording.save` wrote; whole runs are not part of it.

    Raises:
        CheckpointError: the folder holds something else, or is damaged.
    """
    recording = Recording()
    try:
        for entry in parse_json(read_bounded(folder / INDEX, _MAX_INDEX)):
            sides: dict[str, dict[str, NDArray[Any]]] = {"input": {}, "output": {}}
            with np.load(inside(folder, entry["file"]), allow_pickle=False) as arrays:
                for name in arrays.files:
                    side, _, key = name.partition(".")
                    sides[side][key] = arrays[name]
            sample = RecordedSample(str(entry["component"]), str(entry["label"]), sides["input"], sides["output"])
            recording.samples.setdefault(sample.component, []).append(sample)
    except (OSError, EOFError, BadZipFile, zlib.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            "recorded inputs are a folder that `validate --record-dir` wrote",
            f"{folder}: {type(error).__name__}: {error}",
            "Record them again.",
        ) from error
    return recording


def content_key(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Returns 16 hexadecimal digits that name these arrays."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def chosen_steps(steps: int, count: int) -> set[int]:
    """Returns `count` scheduler steps from the first to the last; a single one is the middle."""
    if count >= steps:
        return set(range(steps))
    if count == 1:
        return {steps // 2}
    return {round(i * (steps - 1) / (count - 1)) for i in range(count)}


def record(
    runner: Runner,
    spec: PipelineSpec,
    requests: Sequence[SampleRequest],
    components: Sequence[str],
    max_samples: int = DEFAULT_MAX_SAMPLES,
    whole_runs: bool = True,
    on_step: Callable[[int, int], None] | None = None,
) -> Recording:
    """Samples with the reference and keeps a bounded number of calls of each component.

    Args:
        runner: the float32 reference.
        spec: the bundle's pipeline, so that recorded shapes fit its files.
        requests: several prompts and seeds.
        components: what to record.
        max_samples: most samples per component, spread over prompts and over early, middle and late steps.
        whole_runs: sample to the end even where only text is recorded, because trajectories are wanted.
        on_step: sees (finished steps, all steps).
    """
    keeper = _Keeper(spec, requests, components, max_samples)
    encoders = {part.name for part in spec.family.of_role(Role.TEXT_ENCODER)}
    if not whole_runs and set(components) <= encoders:
        sampler = Sampler(runner, spec, keeper.see)
        for text in dict.fromkeys(text for request in requests for text in texts_of(spec, request)):
            sampler.encode(text)
        runner.release()
        return keeper.recording
    keeper.recording.runs = sample_all(runner, spec, requests, keeper.see, on_step, release=True)
    # Where sampling calls no image encoder, it is given the pictures that were drawn.
    unseen = [name for name, kept in keeper.recording.samples.items() if not kept]
    for encoder in (part for part in spec.family.of_role(Role.IMAGE_ENCODER) if part.name in unseen):
        for index, run in enumerate(keeper.recording.runs[:max_samples]):
            inputs = {encoder.inputs[0].name: np.clip(run.image, -1.0, 1.0)}
            outputs = runner.run(encoder.name, inputs)
            keeper.keep(encoder.name, f"prompt {index + 1}", inputs, outputs)
    runner.release()
    return keeper.recording


class _Keeper:
    """Decides which calls to keep while they happen."""

    def __init__(
        self, spec: PipelineSpec, requests: Sequence[SampleRequest], components: Sequence[str], most: int
    ) -> None:
        self.recording = Recording({name: [] for name in components})
        self._most = most
        per_run = max(1, most // (len(requests) * spec.guidance.calls))
        self._steps = [chosen_steps(len(timesteps_of(spec, request)), per_run) for request in requests]

    def see(self, call: ComponentCall) -> None:
        """Keeps the call if it belongs to the chosen ones."""
        if call.component not in self.recording.samples:
            return
        if call.request is None:
            label = f"text {len(self.recording.samples[call.component]) + 1}"
        elif call.step is None:
            label = f"prompt {call.request + 1}"
        elif call.step in self._steps[call.request]:
            label = f"prompt {call.request + 1}, step {call.step + 1}, t={call.timestep:g}"
        else:
            return
        self.keep(call.component, label, call.inputs, call.outputs)

    def keep(
        self, component: str, label: str, inputs: dict[str, NDArray[Any]], outputs: dict[str, NDArray[Any]]
    ) -> None:
        """Adds a sample unless there are enough of its component."""
        kept = self.recording.samples[component]
        if len(kept) < self._most:
            copy = {name: np.array(array) for name, array in inputs.items()}
            kept.append(RecordedSample(component, label, copy, {n: np.array(a) for n, a in outputs.items()}))
