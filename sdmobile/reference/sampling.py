"""The whole text-to-image pipeline over any runner, with Diffusers' schedulers.

The arithmetic is that of latent diffusion (Rombach et al., arXiv:2112.10752) with classifier-free guidance (Ho and
Salimans, arXiv:2207.12598) where the family has it; what differs is who computes the components. What a prompt becomes
and how a step is taken is the family's. Every component call can be observed, which is how inputs are recorded and
latents compared.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.errors import UsageError
from sdmobile.families.component import Role
from sdmobile.reference.controls import Controls
from sdmobile.reference.noise import NoiseStream
from sdmobile.reference.pipeline import DEFAULT_GUIDANCE_SCALE, DEFAULT_STEPS
from sdmobile.reference.start import Start, schedule_of, start_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.families.component import Arrays, Row
    from sdmobile.families.edit import Edit
    from sdmobile.reference.pipeline import PipelineSpec
    from sdmobile.runtimes import Runner


@dataclass(frozen=True)
class SampleRequest:
    """One picture to make.

    Args:
        prompt: what to draw.
        negative: what to stay away from; the unconditional row of the guidance.
        steps: scheduler steps.
        seed: unsigned 32-bit seed of the initial noise.
        guidance_scale: s in ε = ε_uncond + s·(ε_text − ε_uncond); at most 1 means no guidance.
        image_guidance_scale: of the picture, for families that it guides; None for their default.
        scheduler: short name, or None for the checkpoint's own.
        edit: the picture to start from; None to draw one, or for `Family.usual_edit` where a picture is needed.
        control: the picture of each control network, [1, 3, H, W] in [0, 1]; empty for the family's examples.
    """

    prompt: str
    negative: str = ""
    steps: int = DEFAULT_STEPS
    seed: int = 0
    guidance_scale: float = DEFAULT_GUIDANCE_SCALE
    scheduler: str | None = None
    edit: Edit | None = None
    control: tuple[NDArray[np.float32], ...] = field(default=(), compare=False)
    image_guidance_scale: float | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.guidance_scale):
            raise UsageError("the guidance scale must be a finite number", self.guidance_scale)
        if (image := self.image_guidance_scale) is not None and not (math.isfinite(image) and image >= 1):
            raise UsageError("the image guidance scale must be a number of at least 1", image)
        if self.steps < 1:
            raise UsageError("a picture takes at least one step", self.steps)
        if self.edit is not None:
            self.edit.steps_of(self.steps)  # refused now, not when the text was encoded

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON values, a picture as the hash of its content."""
        control = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in self.control]
        return {**vars(self), "edit": None if self.edit is None else self.edit.key, "control": control}


@dataclass(frozen=True)
class ComponentCall:
    """One call of one component during sampling.

    Args:
        component: canonical name.
        inputs: canonical inputs.
        outputs: canonical outputs.
        request: index of the picture, None for text, which pictures share.
        step: scheduler step, None outside the loop.
        timestep: timestep of the training schedule, None outside the loop.
        seconds: wall time.
    """

    component: str
    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, NDArray[Any]]
    request: int | None
    step: int | None
    timestep: float | None
    seconds: float


@dataclass
class SampleResult:
    """A finished run.

    Args:
        request: what was asked for.
        latents: the latent [1, C, h, w] after each scheduler step.
        timesteps: timestep of each step.
        image: decoder output [1, 3, H, W] in about [−1, 1].
        seconds: wall time per component, summed over its calls; the text encoder's is that of all texts of a batch of
            requests, which share them.
    """

    request: SampleRequest
    latents: list[NDArray[np.float32]]
    timesteps: list[float]
    image: NDArray[np.float32]
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Given:
    """What the denoiser takes beside the noisy latent of N pictures, the same in every step.

    Args:
        unconditional, conditional: what the negative texts and the prompts give, N rows each.
        beside: channels after the noisy latent, [N, K, h, w]; None for none.
    """

    unconditional: Arrays
    conditional: Arrays
    beside: NDArray[np.float32] | None

    def of(
        self, rows: Sequence[Row], latent: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], dict[str, NDArray[Any]]]:
        """Returns latents and further inputs of a call that computes some rows, one after the other.

        Args:
            rows: of guidance.
            latent: noisy, [N, C, h, w].
        """
        texts = [self.conditional if row.prompt else self.unconditional for row in rows]
        samples = [latent if self.beside is None else self._joined(latent, row) for row in rows]
        return np.concatenate(samples), {name: np.concatenate([text[name] for text in texts]) for name in texts[0]}

    def _joined(self, latent: NDArray[np.float32], row: Row) -> NDArray[np.float32]:
        assert self.beside is not None
        return np.concatenate([latent, self.beside if row.picture else np.zeros_like(self.beside)], axis=1)


CallObserver = Callable[[ComponentCall], None]
StepObserver = Callable[[int, int], None]


class Sampler:
    """The pipeline in its three parts, so that a caller can free a component between them.

    Args:
        runner: computes the components.
        spec: the pipeline.
        on_call: sees every component call.
        on_step: sees (finished steps, all steps).
    """

    def __init__(
        self,
        runner: Runner,
        spec: PipelineSpec,
        on_call: CallObserver | None = None,
        on_step: StepObserver | None = None,
    ) -> None:
        self.runner = runner
        self.spec = spec
        self.seconds: dict[int | None, dict[str, float]] = {}
        self.request: int | None = None
        self._on_call = on_call
        self._on_step = on_step
        self._tokenizer: Any = None
        self._controls: Controls | None = None

    def tokenize(self, text: str) -> NDArray[np.int64]:
        """Returns the padded token ids [1, L] of a text; one that is too long is cut off."""
        from sdmobile.checkpoints.tokenizers import token_ids

        if self._tokenizer is None:
            self._tokenizer = self.spec.tokenizer()
        kind, length = self.spec.family.tokenizer_kind, self.spec.geometry.context_length
        return np.asarray([token_ids(self._tokenizer, text, length, kind)], dtype=np.int64)

    def encode(self, text: str) -> Arrays:
        """Returns what a text gives one row of the denoiser's inputs."""
        return self.spec.family.encode(self.tokenize(text), self._call, self.spec.geometry)

    def start(self, request: SampleRequest) -> Start:
        """Encodes the picture of a request, where there is one."""
        return start_of(self.spec, request, self._call)

    def denoise(
        self, request: SampleRequest, unconditional: Arrays, conditional: Arrays, start: Start | None = None
    ) -> Iterator[tuple[float, NDArray[np.float32]]]:
        """Yields the timestep and the latent [1, C, h, w] after each scheduler step.

        Args:
            request: the picture.
            unconditional: of `encode`, of the negative text; the same as `conditional` where guidance takes one text.
            conditional: of `encode`, of the prompt.
            start: of `start`, of the request; made where it is not given.
        """
        import torch

        family, start = self.spec.family, self.start(request) if start is None else start
        scheduler, timesteps = schedule_of(self.spec, request)
        noise = NoiseStream(request.seed, self.spec.latent_shape)
        latent = start.latent(scheduler, timesteps, noise)
        self._controls = Controls(family, self.spec.geometry, request.control, self._call)
        unconditional = negative_row(self.spec, request, unconditional)
        further = {**family.conditioning(request.guidance_scale, self.spec.geometry), **self._controls.once()}
        given = Given({**unconditional, **further}, {**conditional, **further}, start.beside)
        # Some schedulers draw noise while they step. Where no table has it, it is torch's, of the same seed.
        generator = torch.Generator().manual_seed(request.seed)
        for index, timestep in enumerate(timesteps):
            scaled = scheduler.scale_model_input(latent, timestep).numpy()
            prediction = self.predict(request, scaled, float(timestep), given, index)
            latent = family.step(scheduler, torch.from_numpy(prediction), timestep, latent, generator, noise.draw)
            if self._on_step is not None:
                self._on_step(index + 1, len(timesteps))
            yield float(timestep), latent.numpy().astype(np.float32)

    def decode(self, latent: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the picture [1, 3, H, W] of a scaled latent."""
        decoder = self.spec.family.decoder
        unscaled = (latent / np.float32(self.spec.scaling_factor)).astype(np.float32)
        if self.spec.shift_factor:
            unscaled += np.float32(self.spec.shift_factor)
        return self._call(decoder.name, {decoder.inputs[0].name: unscaled})[decoder.outputs[0].name]

    def predict(
        self, request: SampleRequest, latent: NDArray[np.float32], timestep: float, given: Given, step: int
    ) -> NDArray[np.float32]:
        """Returns the guided prediction [N, C, h, w], by as many calls of the denoiser as the guidance needs.

        Args:
            request: whose scales guide.
            latent: noisy, as the denoiser takes it, [N, C, h, w].
            timestep: of the training schedule.
            given: what else it takes.
            step: index of the step.
        """
        family, guidance = self.spec.family, self.spec.guidance
        guided = guidance.texts > 1 and family.guided(request.guidance_scale)
        alone = next(row for row in family.guidance_rows if row.prompt)
        rows = family.guidance_rows if guided or guidance.rows > 1 else (alone,)
        predictions: list[NDArray[np.float32]] = []
        for call in [rows] if guidance.rows > 1 else [(row,) for row in rows]:
            samples, conditioning = given.of(call, latent)
            predictions += np.split(self._denoise(samples, timestep, conditioning, step), len(call))
        if not guided:
            return predictions[rows.index(alone)]
        return family.guide(predictions, request.guidance_scale, request.image_guidance_scale)

    def _denoise(
        self, latent: NDArray[np.float32], timestep: float, conditioning: Arrays, step: int
    ) -> NDArray[np.float32]:
        denoiser = self.spec.family.denoiser
        sample, steps = denoiser.inputs[:2]
        repeated = np.full(latent.shape[0], timestep, dtype=np.float32)
        inputs = {sample.name: latent, steps.name: repeated, **conditioning}
        if self._controls is not None:
            inputs |= self._controls.at(inputs, step, timestep)
        return self._call(denoiser.name, inputs, step, timestep)[denoiser.outputs[0].name]

    def _call(
        self, component: str, arrays: Arrays, step: int | None = None, timestep: float | None = None
    ) -> dict[str, NDArray[Any]]:
        started = time.perf_counter()
        inputs = dict(arrays)
        outputs = self.runner.run(component, inputs)
        seconds = time.perf_counter() - started
        spent = self.seconds.setdefault(self.request, {})
        spent[component] = spent.get(component, 0.0) + seconds
        if self._on_call is not None:
            self._on_call(ComponentCall(component, inputs, outputs, self.request, step, timestep, seconds))
        return outputs


def sample_all(
    runner: Runner,
    spec: PipelineSpec,
    requests: Sequence[SampleRequest],
    on_call: CallObserver | None = None,
    on_step: StepObserver | None = None,
    release: bool = False,
) -> list[SampleResult]:
    """Makes several pictures, component by component, so that at most one large component is in memory.

    Args:
        runner: computes the components.
        spec: the pipeline.
        requests: the pictures.
        on_call: sees every component call.
        on_step: sees (finished steps, all steps) of all requests together.
        release: free each component when all requests have passed it.
    """
    done = [0]
    total = sum(len(timesteps_of(spec, request)) for request in requests)

    def count(_step: int, _steps: int) -> None:
        done[0] += 1
        if on_step is not None:
            on_step(done[0], total)

    family = spec.family
    sampler = Sampler(runner, spec, on_call, count)
    pairs_of_texts = [texts_of(spec, request) for request in requests]
    features = {text: sampler.encode(text) for text in dict.fromkeys(chain.from_iterable(pairs_of_texts))}
    if release:
        for encoder in family.of_role(Role.TEXT_ENCODER):
            runner.release(encoder.name)
    starts: list[Start] = []
    for sampler.request, request in enumerate(requests):
        starts.append(sampler.start(request))
    if release:
        for encoder in family.of_role(Role.IMAGE_ENCODER):
            runner.release(encoder.name)
    runs: list[tuple[list[float], list[NDArray[np.float32]]]] = []
    for (sampler.request, request), texts in zip(enumerate(requests), pairs_of_texts, strict=True):
        pairs = list(sampler.denoise(request, features[texts[0]], features[texts[-1]], starts[sampler.request]))
        runs.append(([timestep for timestep, _ in pairs], [latent for _, latent in pairs]))
    if release:
        for role in (Role.PLUGIN, Role.CONTROL, Role.DENOISER):
            for part in family.of_role(role):
                runner.release(part.name)
    images = []
    for sampler.request, (_, latents) in enumerate(runs):
        images.append(sampler.decode(latents[-1]))
    if release:
        runner.release(family.decoder.name)
    return [
        SampleResult(request, latents, timesteps, image, sampler.seconds[None] | sampler.seconds[index])
        for index, (request, (timesteps, latents), image) in enumerate(zip(requests, runs, images, strict=True))
    ]


def sample(
    runner: Runner,
    spec: PipelineSpec,
    request: SampleRequest,
    on_call: CallObserver | None = None,
    on_step: StepObserver | None = None,
    release: bool = False,
) -> SampleResult:
    """Makes one picture; see `sample_all`."""
    return sample_all(runner, spec, [request], on_call, on_step, release)[0]


def timesteps_of(spec: PipelineSpec, request: SampleRequest) -> list[float]:
    """Returns the timesteps of a request; some schedulers take more than one UNet call per step."""
    return [float(timestep) for timestep in schedule_of(spec, request)[1]]


def negative_row(spec: PipelineSpec, request: SampleRequest, features: Arrays) -> Arrays:
    """Returns the unconditional row of a request, which for an empty text may be zeros.

    Args:
        spec: the pipeline.
        request: the picture.
        features: of `Sampler.encode`, of the negative text.
    """
    if request.negative or not spec.zeros_where_empty or spec.guidance.texts < 2:
        return features
    return {name: np.zeros_like(array) for name, array in features.items()}


def texts_of(spec: PipelineSpec, request: SampleRequest) -> tuple[str, ...]:
    """Returns the texts to encode for a picture, the one of the unconditional row first.

    Raises:
        UsageError: the guidance scale needs an unconditional row, which this way of guidance has none of.
    """
    if spec.guided_at(request.guidance_scale) is not spec:
        spec.check_asked(request.guidance_scale)
    return (request.negative, request.prompt)[2 - spec.guidance.texts :]
