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

    from sdmobile.families.component import Arrays
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
        scheduler: short name, or None for the checkpoint's own.
        edit: the picture to start from; None to draw one, or for `Family.usual_edit` where a picture is needed.
        control: the picture that controls, [1, 3, H, W] in [0, 1], for a family with a control network; None for
            the family's example.
    """

    prompt: str
    negative: str = ""
    steps: int = DEFAULT_STEPS
    seed: int = 0
    guidance_scale: float = DEFAULT_GUIDANCE_SCALE
    scheduler: str | None = None
    edit: Edit | None = None
    control: NDArray[np.float32] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not math.isfinite(self.guidance_scale):
            raise UsageError("the guidance scale must be a finite number", self.guidance_scale)
        if self.steps < 1:
            raise UsageError("a picture takes at least one step", self.steps)
        if self.edit is not None:
            self.edit.steps_of(self.steps)  # refused now, not when the text was encoded

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON values, a picture as the hash of its content."""
        control = None if self.control is None else hashlib.sha256(self.control.tobytes()).hexdigest()
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
        from sdmobile.checkpoints.tokenizers import written_out

        if self._tokenizer is None:
            self._tokenizer = self.spec.tokenizer()
        encoded = self._tokenizer(
            [written_out(text, self._tokenizer)],
            padding="max_length",
            max_length=self.spec.geometry.context_length,
            truncation=True,
        )
        return np.asarray(encoded["input_ids"], dtype=np.int64)

    def encode(self, text: str) -> Arrays:
        """Returns what a text gives one row of the denoiser's inputs."""
        return self.spec.family.encode(self.tokenize(text), self._call)

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
        rows = {**unconditional, **further}, {**conditional, **further}
        # Some schedulers draw noise while they step. Where no table has it, it is torch's, of the same seed.
        generator = torch.Generator().manual_seed(request.seed)
        for index, timestep in enumerate(timesteps):
            scaled = scheduler.scale_model_input(latent, timestep).numpy()
            if start.beside is not None:
                scaled = np.concatenate([scaled, start.beside], axis=1)
            prediction = self.predict(request.guidance_scale, scaled, float(timestep), rows, index)
            latent = family.step(scheduler, torch.from_numpy(prediction), timestep, latent, generator, noise.draw)
            if self._on_step is not None:
                self._on_step(index + 1, len(timesteps))
            yield float(timestep), latent.numpy().astype(np.float32)

    def decode(self, latent: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the picture [1, 3, H, W] of a scaled latent."""
        decoder = self.spec.family.decoder
        unscaled = (latent / np.float32(self.spec.scaling_factor)).astype(np.float32)
        return self._call(decoder.name, {decoder.inputs[0].name: unscaled})[decoder.outputs[0].name]

    def predict(
        self, scale: float, latent: NDArray[np.float32], timestep: float, rows: tuple[Arrays, Arrays], step: int
    ) -> NDArray[np.float32]:
        """Returns the guided prediction [N, C, h, w], by as many calls of the denoiser as the guidance needs.

        Args:
            scale: of the guidance.
            latent: as the denoiser takes it, [N, C, h, w].
            timestep: of the training schedule.
            rows: what the negative text and the prompt give, N rows each.
            step: index of the step.
        """
        unconditional, conditional = rows
        guided = self.spec.guidance.texts > 1 and self.spec.family.guided(scale)
        if self.spec.guidance.rows == 2:
            both = {name: np.concatenate([unconditional[name], conditional[name]]) for name in conditional}
            prediction = self._denoise(np.concatenate([latent, latent]), timestep, both, step)
            without, with_text = np.split(prediction, 2)
        else:
            with_text = self._denoise(latent, timestep, conditional, step)
            without = self._denoise(latent, timestep, unconditional, step) if guided else with_text
        return without + np.float32(scale) * (with_text - without) if guided else with_text

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
