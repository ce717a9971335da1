"""A component under study: its module, the layers that can be compressed, recorded inputs and exact outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from sdmobile.basics.files import hash_json
from sdmobile.basics.fingerprint import code_hash, library_closure
from sdmobile.basics.metrics import psnr
from sdmobile.checkpoints.shapes64.obedience import CAPTIONED
from sdmobile.quantize.recipes import MIN_ELEMENTS
from sdmobile.quantize.schemes import parse_scheme
from sdmobile.quantize.sensitivity_work import keep
from sdmobile.reference.recording import DEFAULT_PROMPTS

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.quantize.recipes import Recipe
    from sdmobile.reference.pipeline import PipelineSpec
    from sdmobile.reference.recording import RecordedSample, Recording
    from sdmobile.reference.sampling import SampleRequest

# Three sets of prompts and seeds that do not meet: to analyse with, to choose with, and to judge with.
ANALYSIS_PROMPTS = DEFAULT_PROMPTS
# In the captions of the bundled checkpoint; any other text-to-image checkpoint understands them too.
SELECTION_PROMPTS = (
    "a small yellow circle above a large blue cross on a gray background",
    "a picture of a large green square on the right with a white background",
)
JUDGING_PROMPTS = (
    "a large blue circle to the right of a small red triangle on a white background",
    "a small green square at the bottom on a black background",
    "a large yellow cross above a small blue circle on a gray background",
)
SELECTION_SEED, JUDGING_SEED = 1_000, 2_000

Row = tuple["torch.Tensor", ...]
_ROWS_PER_CALL = 4
_LIBRARIES = ("torch", "diffusers", "transformers", "safetensors", "numpy")
LEFT_OUT = ("lint/*", "exporters/*", "validate/*")
"""Rooms that have no part in what is measured and kept; all others count (`basics.fingerprint`)."""


def requests_for(
    checkpoint: Checkpoint, prompts: Sequence[str], steps: int, seed: int = 0
) -> tuple[SampleRequest, ...]:
    """Returns one picture per prompt, with the checkpoint's own guidance and one seed after the other."""
    from sdmobile.reference.sampling import SampleRequest

    scale = checkpoint.usual_guidance_scale
    return tuple(SampleRequest(prompt, "", steps, seed + i, scale) for i, prompt in enumerate(prompts))


def judging_requests(checkpoint: Checkpoint, count: int, steps: int) -> tuple[SampleRequest, ...]:
    """Returns pictures to judge by: of shapes-64 captions that training never saw, else the judging prompts in turn."""
    if checkpoint.name == CAPTIONED:
        from sdmobile.checkpoints.shapes64.held_out import held_out_captions

        prompts = [caption.text for caption in held_out_captions(count)]
    else:
        prompts = [JUDGING_PROMPTS[i % len(JUDGING_PROMPTS)] for i in range(count)]
    return requests_for(checkpoint, prompts, steps, JUDGING_SEED)


@dataclass(frozen=True)
class Quality:
    """How far outputs are from the exact ones.

    Args:
        psnr_db: over all rows together, as `basics.metrics.psnr`.
        worst_db: least PSNR of a row.
        mse: mean squared error over all rows.
    """

    psnr_db: float
    worst_db: float
    mse: float


@dataclass(frozen=True, eq=False)
class Study:
    """A component ready to be measured.

    Args:
        component: canonical name.
        module: behind the canonical interface, float32, evaluation mode.
        rows: recorded inputs, one row of the batch each.
    """

    component: str
    module: nn.Module
    rows: tuple[Row, ...]

    @property
    def layers(self) -> dict[str, nn.Parameter]:
        """Weights that a recipe may compress, by module path in the order of the module."""
        return compressible(self.module)

    def weight(self, layer: str) -> NDArray[np.float32]:
        """Returns the layer's exact weight."""
        return self.layers[layer].detach().numpy()

    def outputs(self) -> list[NDArray[np.float32]]:
        """Returns the module's output for each row, as its weights are now."""
        import torch

        outputs: list[NDArray[np.float32]] = []
        with torch.inference_mode():
            for start in range(0, len(self.rows), _ROWS_PER_CALL):
                chunk = self.rows[start : start + _ROWS_PER_CALL]
                outputs += list(self.module(*(torch.cat(column) for column in zip(*chunk, strict=True))).numpy())
        return outputs

    @contextmanager
    def replaced(self, weights: Mapping[str, NDArray[Any]]) -> Iterator[None]:
        """Runs a block with other weights in some layers."""
        import torch

        layers = self.layers
        exact = {name: layers[name].data for name in weights}
        try:
            for name, array in weights.items():
                layers[name].data = torch.from_numpy(np.asarray(array, np.float32))
            yield
        finally:
            for name, data in exact.items():
                layers[name].data = data

    def quality(self, exact: Sequence[NDArray[np.float32]], weights: Mapping[str, NDArray[Any]]) -> Quality:
        """Measures the output with other weights against the exact one.

        Args:
            exact: what `outputs` returned with the checkpoint's own weights.
            weights: by layer.
        """
        with self.replaced(weights):
            return quality(exact, self.outputs())


def quality(exact: Sequence[NDArray[np.float32]], compressed: Sequence[NDArray[np.float32]]) -> Quality:
    """Compares outputs row by row and all together."""
    difference = np.stack(exact).astype(np.float64) - np.stack(compressed)
    worst = min(psnr(a, b) for a, b in zip(exact, compressed, strict=True))
    return Quality(psnr(np.stack(exact), np.stack(compressed)), worst, float(np.mean(np.square(difference))))


def compressible(module: nn.Module, least: int = MIN_ELEMENTS) -> dict[str, nn.Parameter]:
    """Returns weight matrices and kernels of at least `least` elements by module path, as exported nodes name it."""
    import torch

    weights: dict[str, nn.Parameter] = {}
    for path, child in module.named_modules():
        weight = getattr(child, "weight", None)
        if isinstance(weight, torch.nn.Parameter) and weight.ndim >= 2 and weight.numel() >= least:
            weights[path.removeprefix("component.")] = weight
    return weights


def open_study(
    checkpoint: Checkpoint,
    component: str,
    requests: Sequence[SampleRequest],
    max_samples: int,
    recordings: Path | None,
) -> Study:
    """Loads a component and records its inputs on real trajectories.

    Args:
        checkpoint: the opened checkpoint.
        component: canonical name.
        requests: pictures whose trajectories are recorded.
        max_samples: most recorded calls; a call of the UNet has two rows, without and with text.
        recordings: cache of recordings, None for none.
    """
    from sdmobile.reference.subject import wrapped_component

    samples = recorded(checkpoint, component, requests, max_samples, recordings)
    return Study(component, wrapped_component(checkpoint, "ios", component), rows_of(samples))


def recorded(
    checkpoint: Checkpoint,
    component: str,
    requests: Sequence[SampleRequest],
    max_samples: int,
    recordings: Path | None,
) -> list[RecordedSample]:
    """Returns recorded calls of a component, from the cache if it has them."""
    from sdmobile.reference.pipeline import PipelineSpec

    spec = PipelineSpec.from_checkpoint(checkpoint)
    recording = recording_of(checkpoint, spec, requests, (component,), max_samples, recordings, whole_runs=False)
    return recording.samples[component]


def recording_of(
    checkpoint: Checkpoint,
    spec: PipelineSpec,
    requests: Sequence[SampleRequest],
    components: Sequence[str],
    max_samples: int,
    recordings: Path | None,
    whole_runs: bool = True,
) -> Recording:
    """Returns calls of several components, recorded on runs of the float32 reference or taken from the cache."""
    from sdmobile.reference.recording import record
    from sdmobile.reference.recording_cache import RecordingCache, recording_key
    from sdmobile.reference.torch_runner import TorchRunner

    key = recording_key(checkpoint.content_hash, spec, requests, components, max_samples, whole_runs)
    runner = TorchRunner(checkpoint, spec.geometry)
    return RecordingCache(recordings).recorded(
        key, requests, lambda: record(runner, spec, requests, components, max_samples, whole_runs=whole_runs)
    )[0]


def rows_of(samples: Sequence[RecordedSample]) -> tuple[Row, ...]:
    """Returns every row of the batches of recorded calls."""
    return tuple(row for sample in samples for row in _rows(sample))


def _rows(sample: RecordedSample) -> Iterator[Row]:
    import torch

    arrays = list(sample.inputs.values())
    for index in range(len(arrays[0])):
        yield tuple(torch.from_numpy(np.ascontiguousarray(array[index : index + 1])) for array in arrays)


@dataclass(frozen=True)
class EncodedWeights:
    """Weights as a phone sees them, kept on disk: encoded once, by whichever process comes first.

    Args:
        study: gives the exact weights.
        folder: where they are kept.
    """

    study: Study
    folder: Path

    def get(self, layer: str, scheme: str) -> tuple[NDArray[np.float16], int] | None:
        """Returns decoded weight and stored bytes, or None where the scheme does not fit the layer's shape."""
        from sdmobile.quantize.encodings import encode, misfit

        weight, chosen = self.study.weight(layer), parse_scheme(scheme)
        if misfit(weight.shape, chosen) is not None:
            return None
        file = self.folder / f"{layer}-{scheme}.npz"
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return arrays["decoded"], int(arrays["stored_bytes"])
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            encoding = encode(weight, chosen)
            decoded, size = encoding.decode(), encoding.stored_bytes
            keep(file, lambda part: np.savez(part, decoded=decoded, stored_bytes=np.int64(size)))
            return decoded, size

    def of_recipe(self, recipe: Recipe) -> tuple[dict[str, NDArray[np.float16]], int]:
        """Returns every layer's weight under a recipe, and the stored bytes of all; a misfit stays float16."""
        weights: dict[str, NDArray[np.float16]] = {}
        total = 0
        for layer, exact in self.study.layers.items():
            scheme = recipe.scheme_for(self.study.component, layer, exact.numel(), exact.dim() == 2).name
            fitting = self.get(layer, scheme) or self.get(layer, "fp16")
            assert fitting is not None
            weights[layer], size = fitting
            total += size
        return weights, total


def weights_key(source_hash: str, component: str) -> str:
    """Returns the hash that names what is kept of a component: of the checkpoint, the package's code and libraries."""
    facts = [source_hash, component, code_hash(LEFT_OUT), library_closure(_LIBRARIES)]
    return hash_json(facts)[:32]
