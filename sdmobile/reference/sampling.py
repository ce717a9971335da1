"""The whole text-to-image pipeline over any runner, with Diffusers' schedulers.

The arithmetic is that of Diffusers' StableDiffusionPipeline (Rombach et al., arXiv:2112.10752) with classifier-free
guidance (Ho and Salimans, arXiv:2207.12598); what differs is who computes the components. Every component call can be
observed, which is how inputs are recorded and latents compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.errors import UnsupportedError
from sdmobile.reference.noise import initial_latent

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.formats.bundle.contracts import Geometry
    from sdmobile.formats.bundle.reading import Bundle
    from sdmobile.runtimes import Runner

DEFAULT_STEPS = 20
DEFAULT_GUIDANCE_SCALE = 7.5


@dataclass(frozen=True)
class PipelineSpec:
    """What sampling needs to know besides the components.

    Args:
        geometry: latent, image and context sizes.
        guidance: "batch2" calls the UNet once a step with the unconditional row first, "separate" once per row.
        scaling_factor: the final latent is divided by it before decoding.
        scheduler_config: configuration of the Diffusers scheduler the checkpoint was trained for.
        tokenizer_dir: folder with vocab.json and merges.txt.
        guidance_scale: what the checkpoint's model card recommends, else Diffusers' default.
    """

    geometry: Geometry
    guidance: str
    scaling_factor: float
    scheduler_config: Mapping[str, Any]
    tokenizer_dir: Path
    guidance_scale: float = DEFAULT_GUIDANCE_SCALE

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """[1, C, h, w]."""
        return (1, self.geometry.latent_channels, self.geometry.latent_height, self.geometry.latent_width)

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> PipelineSpec:
        """Reads the pipeline of an exported bundle."""
        return cls(
            geometry=bundle.geometry,
            guidance=bundle.guidance,
            scaling_factor=float(bundle.pipeline["scaling_factor"]),
            scheduler_config=bundle.pipeline["scheduler"],
            tokenizer_dir=bundle.tokenizer_dir,
            guidance_scale=float(bundle.pipeline.get("guidance_scale") or DEFAULT_GUIDANCE_SCALE),
        )

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, guidance: str = "batch2") -> PipelineSpec:
        """Describes a checkpoint's own pipeline at its native resolution.

        Raises:
            UnsupportedError: the checkpoint has no tokenizer.
        """
        from sdmobile.reference.geometry import geometry_for

        if checkpoint.tokenizer_dir is None:
            raise UnsupportedError("sampling needs the checkpoint's tokenizer", checkpoint.path)
        return cls(
            geometry=geometry_for(checkpoint, guidance),
            guidance=guidance,
            scaling_factor=checkpoint.scaling_factor,
            scheduler_config=checkpoint.scheduler_config,
            tokenizer_dir=checkpoint.tokenizer_dir,
            guidance_scale=checkpoint.guidance_scale or DEFAULT_GUIDANCE_SCALE,
        )


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
    """

    prompt: str
    negative: str = ""
    steps: int = DEFAULT_STEPS
    seed: int = 0
    guidance_scale: float = DEFAULT_GUIDANCE_SCALE
    scheduler: str | None = None


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

    def tokenize(self, text: str) -> NDArray[np.int64]:
        """Returns the padded token ids [1, L] of a text; one that is too long is cut off."""
        if self._tokenizer is None:
            from sdmobile.reference.tokens import tokenizer_from

            self._tokenizer = tokenizer_from(self.spec.tokenizer_dir)
        encoded = self._tokenizer(
            [text], padding="max_length", max_length=self.spec.geometry.context_length, truncation=True
        )
        return np.asarray(encoded["input_ids"], dtype=np.int64)

    def encode(self, text: str) -> NDArray[np.float32]:
        """Returns the text features [1, L, D]."""
        return self._call("text_encoder", {"input_ids": self.tokenize(text)})["last_hidden_state"]

    def denoise(
        self, request: SampleRequest, unconditional: NDArray[np.float32], conditional: NDArray[np.float32]
    ) -> Iterator[tuple[float, NDArray[np.float32]]]:
        """Yields the timestep and the latent [1, C, h, w] after each scheduler step."""
        import torch

        scheduler = _scheduler(self.spec, request)
        latent = torch.from_numpy(
            initial_latent(request.seed, self.spec.latent_shape, float(scheduler.init_noise_sigma))
        )
        # Ancestral schedulers draw noise while they step. It is seeded too, but by torch, not by the documented noise.
        extra = _step_arguments(scheduler, request.seed)
        timesteps = list(scheduler.timesteps)
        for index, timestep in enumerate(timesteps):
            scaled = scheduler.scale_model_input(latent, timestep).numpy()
            prediction = self._predict(request, scaled, float(timestep), unconditional, conditional, index)
            latent = scheduler.step(torch.from_numpy(prediction), timestep, latent, **extra, return_dict=False)[0]
            if self._on_step is not None:
                self._on_step(index + 1, len(timesteps))
            yield float(timestep), latent.numpy().astype(np.float32)

    def decode(self, latent: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the picture [1, 3, H, W] of a scaled latent."""
        unscaled = (latent / np.float32(self.spec.scaling_factor)).astype(np.float32)
        return self._call("vae_decoder", {"latent": unscaled})["image"]

    def _predict(
        self,
        request: SampleRequest,
        latent: NDArray[np.float32],
        timestep: float,
        unconditional: NDArray[np.float32],
        conditional: NDArray[np.float32],
        step: int,
    ) -> NDArray[np.float32]:
        """Predicts the noise with classifier-free guidance, in as many UNet calls as the bundle's guidance needs."""
        scale = request.guidance_scale
        if self.spec.guidance == "batch2":
            context = np.concatenate([unconditional, conditional])
            both = self._unet(np.concatenate([latent, latent]), timestep, context, step)
            without, with_text = both[:1], both[1:]
        else:
            with_text = self._unet(latent, timestep, conditional, step)
            without = with_text if scale <= 1.0 else self._unet(latent, timestep, unconditional, step)
        if scale <= 1.0:
            return with_text
        return without + np.float32(scale) * (with_text - without)

    def _unet(
        self, latent: NDArray[np.float32], timestep: float, context: NDArray[np.float32], step: int
    ) -> NDArray[np.float32]:
        inputs = {
            "sample": latent,
            "timestep": np.full(latent.shape[0], timestep, dtype=np.float32),
            "encoder_hidden_states": context,
        }
        return self._call("unet", inputs, step, timestep)["noise_pred"]

    def _call(
        self, component: str, inputs: dict[str, NDArray[Any]], step: int | None = None, timestep: float | None = None
    ) -> dict[str, NDArray[Any]]:
        started = time.perf_counter()
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

    sampler = Sampler(runner, spec, on_call, count)
    texts = dict.fromkeys(text for request in requests for text in (request.negative, request.prompt))
    features = {text: sampler.encode(text) for text in texts}
    if release:
        runner.release("text_encoder")
    runs: list[tuple[list[float], list[NDArray[np.float32]]]] = []
    for sampler.request, request in enumerate(requests):
        pairs = list(sampler.denoise(request, features[request.negative], features[request.prompt]))
        runs.append(([timestep for timestep, _ in pairs], [latent for _, latent in pairs]))
    if release:
        runner.release("unet")
    images = []
    for sampler.request, (_, latents) in enumerate(runs):
        images.append(sampler.decode(latents[-1]))
    if release:
        runner.release("vae_decoder")
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
    return [float(timestep) for timestep in _scheduler(spec, request).timesteps]


def _scheduler(spec: PipelineSpec, request: SampleRequest) -> Any:
    from sdmobile.checkpoints.schedulers import scheduler_from_config

    scheduler = scheduler_from_config(dict(spec.scheduler_config), request.scheduler)
    scheduler.set_timesteps(request.steps)
    return scheduler


def _step_arguments(scheduler: Any, seed: int) -> dict[str, Any]:
    import inspect

    import torch

    if "generator" in inspect.signature(scheduler.step).parameters:
        return {"generator": torch.Generator().manual_seed(seed)}
    return {}
