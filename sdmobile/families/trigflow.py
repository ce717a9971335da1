"""Consistency models of TrigFlow (SANA-Sprint), sampled in the terms of flow matching.

    y = cos(t)·x₀ + sin(t)·ε,  τ = sin(t)/(cos(t) + sin(t)),  x = y/(cos(t) + sin(t)) = (1 − τ)·x₀ + τ·ε
    D = x − τ·v,  x_next = (1 − τ_next)·D + τ_next·z              z fresh noise; after the last step x = D

Lu and Song, "Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models", arXiv 2410.11081; Chen et al.,
"SANA-Sprint", arXiv 2503.09641. The denoiser takes x and τ and returns a velocity v. Diffusers' pipeline keeps the
latent as σ_d·y and goes to x and back in every step; there σ_d and all factors that depend on t cancel out, so that the
loop here has x alone. The angles t are those of Diffusers' SCMScheduler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families.flow_matching import PREDICTION
from sdmobile.families.sampler_tables import NOISY_UPDATE, Loop, Solver
from sdmobile.families.schedulers import built, check_training_steps, finite_positive

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

SCM = "SCMScheduler"
NAME = "scm"
"""Of the solver, as `--scheduler` takes it."""
TABLED = tuple(range(1, 9))
"""Numbers of steps that tables are made for; the network was trained for 1 to 4."""
FIRST, SECOND = 1.57080, 1.3
"""Angles of the first step, and of the second of two, by the defaults of Diffusers' pipeline."""
_TRIGFLOW = "trigflow"


def check_trigflow(config: Mapping[str, Any]) -> None:
    """Raises unless a scheduler's configuration is one of TrigFlow's consistency models.

    Raises:
        CheckpointError: a number that no schedule can have.
        UnsupportedError: another scheduler or prediction.
    """
    rule = f"the scheduler must be {SCM}, whose angles are known beforehand"
    if config.get("_class_name") != SCM:
        raise UnsupportedError(rule, config.get("_class_name"), "Give the scheduler that the checkpoint came with.")
    if config.get("prediction_type", _TRIGFLOW) != _TRIGFLOW:
        raise UnsupportedError(f"{SCM} predicts {_TRIGFLOW}", config["prediction_type"], "Leave it out.")
    check_training_steps(config)
    if not finite_positive(config.get("sigma_data", 0.5)):
        raise CheckpointError("sigma_data of the scheduler must be a finite number above zero", config["sigma_data"])


def trigflow_scheduler(config: Mapping[str, Any], name: str | None, steps: int) -> TrigFlow:
    """Returns the scheduler with its timesteps set.

    Args:
        config: the checkpoint's configuration.
        name: None, `NAME` or Diffusers' name of the class.
        steps: of the denoiser.

    Raises:
        CheckpointError, UnsupportedError: as `check_trigflow`; another scheduler was asked for; too many steps.
    """
    if name not in (None, NAME, SCM):
        raise UnsupportedError("a consistency model of TrigFlow has a sampler of its own", name, f"Take {NAME}.")
    check_trigflow(config)
    most = check_training_steps(config)
    if not 1 <= steps <= most:
        raise UnsupportedError(f"{SCM} takes at most {most} steps", steps)
    from diffusers.schedulers.scheduling_scm import SCMScheduler

    scheduler = built(SCMScheduler, config)
    scheduler.set_timesteps(steps, max_timesteps=FIRST, intermediate_timesteps=SECOND if steps == 2 else None)
    return TrigFlow(scheduler)


class TrigFlow:
    """The steps of Diffusers' scheduler in x, with the interface of its schedulers, which sampling loops call.

    Args:
        scheduler: an SCMScheduler whose angles are set: t before each step, and 0 after the last, [N + 1].
    """

    order = 1

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self.config = scheduler.config
        self._angles: list[float] = scheduler.timesteps.tolist()
        angles = scheduler.timesteps.double()
        scales = angles.cos() + angles.sin()
        levels = angles.sin() / scales
        self.timesteps = levels[:-1]
        self._scales, self._levels = scales.tolist(), levels.tolist()
        self.init_noise_sigma = 1.0 / self._scales[0]

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """Returns the latent as the denoiser takes it at a timestep: unchanged."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Returns (1 − τ)·x₀ + τ·ε.

        Args:
            original_samples: x₀, [N, C, h, w].
            noise: ε, [N, C, h, w].
            timesteps: whose τ it is, [1].
        """
        level = float(timesteps[0])
        return (1.0 - level) * original_samples + level * noise

    def stepped(
        self, prediction: Tensor, timestep: Tensor, latent: Tensor, noise: Callable[[], NDArray[np.float32]]
    ) -> Tensor:
        """Returns the latent after a step, [N, C, h, w].

        Args:
            prediction: v, [N, C, h, w].
            timestep: τ before the step.
            latent: x before the step, [N, C, h, w].
            noise: draws z, unless the step is the last.
        """
        import torch

        level = float(timestep)
        index = self._levels.index(level)
        following = self._levels[index + 1]
        clean = self._clean(prediction, latent, level, index)
        return clean if following == 0.0 else (1.0 - following) * clean + following * torch.from_numpy(noise())

    def _clean(self, prediction: Tensor, latent: Tensor, level: float, index: int) -> Tensor:
        """Returns D by the scheduler's own step of y, for which the pipeline makes of the velocity

        F = ((1 − 2τ)·x + (1 − 2τ + 2τ²)·v)·(cos(t) + sin(t)).
        """
        import torch

        scale, deviation = self._scales[index], float(self.config.sigma_data)
        output = ((1 - 2 * level) * latent + (1 - 2 * level + 2 * level**2) * prediction) * scale
        angles = self._angles[index : index + 2]
        self._scheduler.set_timesteps(1, timesteps=angles, max_timesteps=None, intermediate_timesteps=None)
        generator = torch.Generator().manual_seed(0)  # of noise that goes into what is left out here
        step = self._scheduler.step(
            output * deviation,
            self._scheduler.timesteps[0],
            latent * scale * deviation,
            generator=generator,
            return_dict=False,
        )
        return step[1] / deviation

    def table(self) -> list[dict[str, float]]:
        """Returns the linear update of every step: timestep, alpha, sigma, a, b and n."""
        return [
            {"timestep": level, "alpha": 1.0 - level, "sigma": level, "a": 0.0, "b": 1.0 - following, "n": following}
            for level, following in zip(self._levels, self._levels[1:], strict=False)
        ]


def trigflow_loop(config: Mapping[str, Any]) -> Loop:
    """Returns the sampling loop of a scheduler configuration as tables; raises as `trigflow_scheduler`."""
    lengths = tuple(steps for steps in TABLED if steps <= check_training_steps(config))
    schedulers = {steps: trigflow_scheduler(config, None, steps) for steps in lengths}
    tables = {str(steps): scheduler.table() for steps, scheduler in schedulers.items()}
    start = schedulers[1].init_noise_sigma
    return Loop((Solver(NAME, SCM, {}, NOISY_UPDATE, start, tables),), None, PREDICTION, (), lengths)
