"""Flow matching: the denoiser predicts a velocity along the straight line from a picture's latent to noise.

    x_σ = (1 − σ)·x₀ + σ·ε,  v = ε − x₀,  x_{σ'} = x_σ + (σ' − σ)·v        timestep = 1000·σ, from 1 down to 0

Lipman et al., "Flow Matching for Generative Modeling", arXiv 2210.02747; Esser et al., "Scaling Rectified Flow
Transformers for High-Resolution Image Synthesis", arXiv 2403.03206, whose shift s moves σ to s·σ/(1 + (s − 1)·σ). The σ
are those of Diffusers' scheduler.

Where a shift goes by the size of the picture, it is exp(μ), see `size_shift`.

With D = x − σ·v, the clean latent that a prediction implies, a step is x' = (σ'/σ)·x + (1 − σ'/σ)·D: a row of the
tables that other samplers have, with α = 1 − σ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families.noisy_tables import plain
from sdmobile.families.sampler_tables import STEP_COUNTS, UPDATE, Loop, Solver
from sdmobile.families.schedulers import built, check_training_steps, finite_positive

EULER = "FlowMatchEulerDiscreteScheduler"
NAME = "flow-euler"
"""Of the solver, as `--scheduler` takes it."""
PREDICTION = "flow"
"""What the denoiser predicts, as tables and manifests call it."""
TABLED = tuple(sorted({*STEP_COUNTS, 9, 28, 40}))
"""Numbers of steps that tables are made for: the usual ones, and those of model cards."""
TOKENS = "picture_tokens"
"""Of a configuration: tokens of a picture, by which its noise levels are shifted."""
_DYNAMIC = "use_dynamic_shifting"
_MOST_TOKENS = 4300
_FIXED = {
    _DYNAMIC: "a shift by the size of the picture (Flux)",
    "invert_sigmas": "noise levels that rise (Mochi)",
    "stochastic_sampling": "steps that draw noise",
}


def check_flow(config: Mapping[str, Any]) -> None:
    """Raises unless a scheduler's configuration is one of flow matching by Euler's method, with usable numbers.

    Raises:
        CheckpointError: a number that no schedule can have.
        UnsupportedError: another scheduler, prediction or kind of schedule.
    """
    rule = f"the scheduler must be {EULER}, whose steps are known beforehand"
    if config.get("_class_name") != EULER:
        raise UnsupportedError(rule, config.get("_class_name"), "Give the scheduler that the checkpoint came with.")
    for key, meaning in _FIXED.items():
        if config.get(key) and not (key == _DYNAMIC and TOKENS in config):
            raise UnsupportedError(rule, f"{key}: {meaning}")
    if config.get("prediction_type") not in (None, PREDICTION):
        raise UnsupportedError("flow matching predicts a velocity", config["prediction_type"], "Leave it out.")
    check_training_steps(config)
    if not finite_positive(config.get("shift", 1.0)):
        raise CheckpointError("shift of the scheduler must be a finite number above zero", config["shift"])
    last = config.get("shift_terminal")
    if last is not None and not (finite_positive(last) and last < 1):
        raise CheckpointError("shift_terminal of the scheduler must be a noise level between 0 and 1", last)


def check_unsized(config: Mapping[str, Any]) -> None:
    """Raises as `check_flow`; and UnsupportedError for a checkpoint that says `TOKENS`, which only a size tells."""
    if TOKENS in config:
        raise UnsupportedError("the scheduler of a checkpoint is of no size of picture", f"{TOKENS} = {config[TOKENS]}")
    check_flow(config)


def size_shift(tokens: int, steps: int) -> float:
    """Returns μ of FLUX.2 for a picture and a number of steps, whose shift is exp(μ).

        μ = a·n + b, through two lines in the tokens at 10 and at 200 steps; the latter for all n beyond 4300 tokens

    Args:
        tokens: of the picture.
        steps: n.
    """
    early, late = 8.73809524e-05 * tokens + 1.89833333, 0.00016927 * tokens + 0.45666666
    slope = (late - early) / 190.0
    return late if tokens > _MOST_TOKENS else slope * steps + (late - 200.0 * slope)


def flow_scheduler(config: Mapping[str, Any], name: str | None = None, even: bool = False) -> Any:
    """Builds Diffusers' scheduler, with what the schedulers of diffusion have besides.

    Args:
        config: the checkpoint's configuration, with `TOKENS` where the size of the picture counts.
        name: None, `NAME` or Diffusers' name of the class.
        even: whether σ goes down to 1/n in even steps, before the shift, not to that of the first timestep.

    Raises:
        CheckpointError, UnsupportedError: as `check_flow`; or another scheduler was asked for.
    """
    if name not in (None, NAME, EULER):
        raise UnsupportedError("flow matching has samplers of its own", name, f"Leave it out, or take {NAME}.")
    check_flow(config)
    from sdmobile.families.flow_scheduler import EvenFlowEuler, FlowEuler

    own = {key: value for key, value in config.items() if key != TOKENS}
    scheduler = built(EvenFlowEuler if even else FlowEuler, own)
    scheduler.tokens = config.get(TOKENS)
    return scheduler


def even_flow_loop(config: Mapping[str, Any]) -> Loop:
    """Returns the sampling loop with even noise levels as tables; raises as `flow_scheduler`."""
    return flow_loop(config, even=True)


def flow_loop(config: Mapping[str, Any], even: bool = False) -> Loop:
    """Returns the sampling loop of a scheduler configuration as tables; raises as `flow_scheduler`."""
    tables: dict[str, list[dict[str, float]]] = {}
    for steps in TABLED:
        scheduler = flow_scheduler(config, even=even)
        scheduler.set_timesteps(steps)
        tables[str(steps)] = flow_table(scheduler.timesteps.tolist(), scheduler.sigmas.tolist())
    return Loop((Solver(NAME, EULER, {}, UPDATE, 1.0, tables),), None, PREDICTION, (), TABLED)


def flow_table(timesteps: Sequence[float], sigmas: Sequence[float]) -> list[dict[str, float]]:
    """Returns the linear update of every step: timestep, alpha, sigma, a, b and c.

    Args:
        timesteps: that the denoiser is given, [N].
        sigmas: σ before each step and after the last, [N + 1].
    """
    rows: list[dict[str, float]] = []
    for timestep, sigma, following in zip(timesteps, sigmas, sigmas[1:], strict=False):
        kept = following / sigma
        row = {"timestep": plain(timestep), "alpha": 1.0 - sigma, "sigma": sigma}
        rows.append({**row, "a": kept, "b": 1.0 - kept, "c": 0.0})
    return rows
