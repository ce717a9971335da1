"""The sampling loop as tables, so that a phone app needs no scheduler library.

A deterministic multistep solver is linear: with D_i the clean latent that the UNet's output implies at step i,

    x_{i+1} = a_i·x_i + b_i·D_i + c_i·D_{i−1} + d_i·D_{i−2}

x_i is what the UNet takes, x = α·x₀ + σ·ε with α² + σ² = 1; solvers that keep x/α are rewritten so. The coefficients
are read off Diffusers' own scheduler by feeding it known numbers, so they carry its conventions (timestep spacing,
sigmas of Karras and others, final step) exactly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import Any

from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families.few_steps import few_steps, set_timesteps
from sdmobile.families.noisy_tables import alpha_sigma, ancestral_table, consistency_table, model_output, plain
from sdmobile.families.schedulers import (
    ANCESTRAL,
    DEFAULT,
    LCM,
    SCHEDULERS,
    scheduler_from_config,
    step_settings,
)

DEFAULT_STEPS = 20
STEP_COUNTS = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 25, 30, 50)
_FEW = 8
_PROBES = (1, 1, 4, 4)  # what a latent looks like to a scheduler
_ZERO = 1e-5
# Some schedulers compute in float32; noise or a threshold in a step is off by 0.01 and more.
_TOLERANCE = 1e-4
_MEMORY = 3
# A table that begins nearer to the picture than this cannot start from noise: one step spaced from 0 on, for example.
_MOST_SIGNAL = 0.9
_TABLED = (
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    ANCESTRAL,
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)
_STANDARD = {"dpm++": "DPMSolverMultistepScheduler", "ddim": "DDIMScheduler"}
# What makes the standard solvers deterministic and linear whatever the checkpoint's own scheduler asks for.
_PLAIN = {"algorithm_type": "dpmsolver++", "solver_order": 2, "thresholding": False, "use_lu_lambdas": False}
UPDATE = "x_next = a * x + b * D + c * D_previous"
"""A step, in the names of the columns."""
_LONG_UPDATE = UPDATE + " + d * D_before_previous"
NOISY_UPDATE = "x_next = a * x + b * D + n * z"


@dataclass(frozen=True)
class Solver:
    """One solver of a `scheduler.json`.

    Args:
        name: short, as `--scheduler` takes it.
        class_name: of Diffusers.
        settings: what was set on top of the checkpoint's scheduler configuration.
        update: the step, as a formula in the names of the tables' columns.
        init_noise_sigma: the initial noise is multiplied by it before the first call of the UNet.
        steps: tables by number of steps.
    """

    name: str
    class_name: str
    settings: dict[str, Any]
    update: str
    init_noise_sigma: float
    steps: dict[str, list[dict[str, float]]]

    @property
    def draws_noise(self) -> bool:
        """Whether a step adds noise."""
        return self.update == NOISY_UPDATE

    def to_json(self) -> dict[str, Any]:
        """Returns the entry of `scheduler.json`."""
        return {
            "diffusers_class": self.class_name,
            "settings": self.settings,
            "update": self.update,
            "init_noise_sigma": self.init_noise_sigma,
            "steps": self.steps,
        }


@dataclass(frozen=True)
class Loop:
    """Sampling under one scheduler configuration, as far as Diffusers is needed to know it.

    Args:
        solvers: of `scheduler.json`, the default first.
        note: why the checkpoint's own scheduler is not among them, None where it is.
        prediction_type: what the denoiser predicts.
        alphas_cumprod: ᾱ of every step of the training schedule; none where x is no such mixture.
        lengths: numbers of steps that the checkpoint's own scheduler takes, of those that were tried.
    """

    solvers: tuple[Solver, ...]
    note: str | None
    prediction_type: str
    alphas_cumprod: tuple[float, ...]
    lengths: tuple[int, ...]


def multistep_table(scheduler: Any, steps: int) -> list[dict[str, float]]:
    """Returns the linear update of every call of the UNet under a Diffusers scheduler.

    Args:
        scheduler: a deterministic Diffusers scheduler of at most three steps of memory.
        steps: number of sampling steps; some schedulers call the UNet twice in one.

    Returns:
        One row per call: timestep, alpha and sigma (of x = α·x₀ + σ·ε), a, b, c and, where it is needed, d.

    Raises:
        UnsupportedError: the scheduler is not linear in x and the last three D.
    """
    import numpy as np
    import torch

    scheduler.set_timesteps(steps)
    draw = np.random.RandomState(0)
    latent = torch.from_numpy(draw.standard_normal(_PROBES)) * float(scheduler.init_noise_sigma)
    timesteps, settings = list(scheduler.timesteps), step_settings(scheduler)
    rows: list[dict[str, float]] = []
    past: list[Any] = []
    for index, (timestep, following) in enumerate(zip_longest(timesteps, timesteps[1:])):
        alpha, sigma = _signal_and_noise(scheduler, timestep, index)
        sample = latent.numpy() * _input_scale(scheduler, timestep)
        past.insert(0, draw.standard_normal(_PROBES))
        output = model_output(scheduler.config.prediction_type, sample, past[0], alpha, sigma)
        latent = scheduler.step(torch.from_numpy(output), timestep, latent, **settings).prev_sample
        result = latent.numpy() * (1.0 if following is None else _input_scale(scheduler, following))
        terms = np.stack([sample.ravel(), *(clean.ravel() for clean in past[:_MEMORY])], axis=1)
        _require_finite(scheduler, terms, result, index)
        solution, *_ = np.linalg.lstsq(terms, result.ravel(), rcond=None)
        size = max(1.0, float((np.abs(terms) @ np.abs(solution)).max()))
        _require_linear(scheduler, float(np.abs(terms @ solution - result.ravel()).max()) / size, index)
        a, b, c, d = (value if abs(value) > _ZERO else 0.0 for value in [*solution.tolist(), 0.0, 0.0][:4])
        row = {"timestep": plain(timestep), "alpha": alpha, "sigma": sigma, "a": a, "b": b, "c": c}
        rows.append(row if d == 0.0 else {**row, "d": d})
    return rows


def _require_finite(scheduler: Any, terms: Any, result: Any, index: int) -> None:
    import numpy as np

    if not (np.isfinite(terms).all() and np.isfinite(result).all()):
        raise UnsupportedError(
            "a table needs finite numbers", f"{type(scheduler).__name__} gives NaN or infinity at step {index}"
        )


def _require_linear(scheduler: Any, error: float, index: int) -> None:
    if error > _TOLERANCE:
        raise UnsupportedError(
            "a table needs a scheduler whose step is linear in x, D_i, D_{i-1} and D_{i-2}",
            f"{type(scheduler).__name__} is off by {error:.1e} at step {index}",
        )


def _input_scale(scheduler: Any, timestep: Any) -> float:
    """Returns what the UNet's input is divided by the scheduler's latent."""
    import torch

    return float(scheduler.scale_model_input(torch.ones(1, dtype=torch.float64), timestep)[0])


def _signal_and_noise(scheduler: Any, timestep: Any, index: int) -> tuple[float, float]:
    """Returns α and σ at a step: by the scheduler's own σ/α where it has such, since Karras' are between timesteps."""
    ratios = getattr(scheduler, "sigmas", None)
    if ratios is None or len(ratios) <= index:
        return alpha_sigma(scheduler, int(timestep))
    ratio = float(ratios[index])
    alpha = (1.0 + ratio * ratio) ** -0.5
    return alpha, ratio * alpha


def consistency_solver(config: Mapping[str, Any]) -> Solver:
    """Returns the tables of an LCMScheduler for few steps.

    Raises:
        CheckpointError: a configuration that no scheduler takes.
        UnsupportedError: one with which the scheduler does not run, or gives no numbers.
    """
    most = config.get("original_inference_steps", 50)
    if type(most) is not int or most < 1:
        raise CheckpointError(f"original_inference_steps of {LCM} must be a whole number from 1 on", most)
    tables: dict[str, list[dict[str, float]]] = {}
    for steps in range(1, min(_FEW, most) + 1):
        scheduler = scheduler_from_config(config, LCM)
        try:
            set_timesteps(scheduler, config, steps)
            rows = consistency_table(scheduler)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            value = f"{LCM} in {steps} steps: {type(error).__name__}: {error}".splitlines()[0]
            raise UnsupportedError("a table needs a scheduler that runs", value) from error
        if not all(math.isfinite(value) for row in rows for value in row.values()):
            raise UnsupportedError("a table needs finite numbers", f"{LCM} gives NaN or infinity in {steps} steps")
        tables[str(steps)] = rows
    return Solver("lcm", LCM, {}, NOISY_UPDATE, 1.0, tables)


def _solver(config: Mapping[str, Any], name: str, class_name: str, settings: dict[str, Any]) -> Solver:
    """Returns the tables of one solver, for all numbers of steps that it takes.

    Raises:
        UnsupportedError: for the usual number it draws other noise or is not linear; or its initial noise has several
            scales.
    """
    few = few_steps(config)
    usual = DEFAULT_STEPS if few is None else few.steps
    tables: dict[str, list[dict[str, float]]] = {}
    scales: set[float] = set()
    for steps in sorted({*STEP_COUNTS, usual}, key=lambda steps: steps != usual):
        try:
            rows, start = _rows_and_start(scheduler_from_config(config, class_name, **settings), steps)
        except UnsupportedError:
            if steps == usual:
                raise
            continue  # too many or too few for this scheduler's numbers
        if rows[0]["alpha"] <= _MOST_SIGNAL:
            tables[str(steps)] = rows
            scales.add(round(start, 6))
    if len(scales) != 1 or str(usual) not in tables:
        raise UnsupportedError("a table needs one scale of the initial noise", f"{class_name}: {sorted(scales)}")
    columns = {column for rows in tables.values() for row in rows for column in row}
    update = NOISY_UPDATE if "n" in columns else _LONG_UPDATE if "d" in columns else UPDATE
    in_order = dict(sorted(tables.items(), key=lambda table: int(table[0])))
    return Solver(name, class_name, settings, update, scales.pop(), in_order)


def _rows_and_start(scheduler: Any, steps: int) -> tuple[list[dict[str, float]], float]:
    """Returns a table, and what the initial noise is multiplied by before the UNet takes it."""
    class_name = type(scheduler).__name__
    try:
        scheduler.set_timesteps(steps)
        start = float(scheduler.init_noise_sigma) * _input_scale(scheduler, scheduler.timesteps[0])
        rows = ancestral_table(scheduler) if class_name == ANCESTRAL else multistep_table(scheduler, steps)
        return rows, start
    except (ArithmeticError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        value = f"{class_name} in {steps} steps: {type(error).__name__}: {error}".splitlines()[0]
        raise UnsupportedError("a table needs a scheduler that takes so many steps", value) from error


def _own_solver(config: Mapping[str, Any]) -> Solver:
    """Returns the tables of the checkpoint's own scheduler; raises UnsupportedError where it has none."""
    class_name = str(config.get("_class_name", DEFAULT))
    if class_name == LCM:
        return consistency_solver(config)
    scheduler_from_config(config)  # refuses what is no scheduler at all
    if class_name not in _TABLED:
        raise UnsupportedError("a table needs a scheduler that is linear, of few steps of memory", class_name)
    names = {cls: name for name, (cls, overrides) in SCHEDULERS.items() if not overrides}
    return _solver(config, names.get(class_name, class_name), class_name, {})


def _standard_solver(config: Mapping[str, Any], name: str) -> Solver | None:
    """Returns the tables of a standard solver with the checkpoint's schedule, made plain where it must be."""
    for settings in ({}, _PLAIN if name == "dpm++" else {"thresholding": False}):
        try:
            return _solver(config, name, _STANDARD[name], settings)
        except UnsupportedError:
            continue
    return None


@lru_cache(maxsize=8)
def _solvers(config: str) -> tuple[tuple[Solver, ...], str | None]:
    """Returns the solvers of a configuration, the default first, and why the checkpoint's own is not among them."""
    settings = json.loads(config)
    reason = None
    try:
        solvers = [_own_solver(settings)]
    except UnsupportedError as error:
        if settings.get("_class_name") == LCM:
            raise  # no other solver stands in for what was distilled to this one
        solvers, reason = [], error.value or error.rule
    if not solvers or solvers[0].class_name != LCM:
        taken = {solver.name for solver in solvers}
        standard = (_standard_solver(settings, name) for name in _STANDARD if name not in taken)
        solvers += [solver for solver in standard if solver is not None]
    if not solvers:
        raise UnsupportedError("the scheduler must be one that can be written as tables", reason)
    note = None if reason is None else f"{reason}: scheduler.json has tables of {solvers[0].name} in its place"
    return tuple(solvers), note


def solvers_of(config: Mapping[str, Any]) -> tuple[tuple[Solver, ...], str | None]:
    """Returns the solvers that `scheduler.json` will have, the default first, and a note where it is a stand-in.

    Args:
        config: the checkpoint's Diffusers scheduler configuration.

    Raises:
        CheckpointError: a configuration that no scheduler takes.
        UnsupportedError: a schedule for which not even a standard solver can be written as tables.
    """
    try:
        return _solvers(json.dumps(dict(config), sort_keys=True))
    except (TypeError, RecursionError) as error:
        raise CheckpointError("the scheduler configuration must be plain JSON", error) from error


def standard_loop(config: Mapping[str, Any]) -> Loop:
    """Returns the loop of a scheduler configuration, read off Diffusers; raises as `solvers_of`."""
    solvers, note = solvers_of(config)
    return _loop(config, solvers, note, scheduler_from_config(config, solvers[0].class_name))


def consistency_loop(config: Mapping[str, Any]) -> Loop:
    """Returns the loop of a latent consistency model, which takes no other scheduler; raises `consistency_solver`'s."""
    solver = consistency_solver(config)
    return _loop({**config, "_class_name": LCM}, (solver,), None, scheduler_from_config(config, LCM))


def _loop(config: Mapping[str, Any], solvers: tuple[Solver, ...], note: str | None, scheduler: Any) -> Loop:
    few = few_steps(config)
    tried = sorted({*STEP_COUNTS, DEFAULT_STEPS if few is None else few.steps})
    return Loop(
        solvers,
        note,
        scheduler.config.prediction_type,
        tuple(float(value) for value in scheduler.alphas_cumprod.double()),
        tuple(steps for steps in tried if _takes(config, steps)),
    )


def _takes(config: Mapping[str, Any], steps: int) -> bool:
    try:
        set_timesteps(scheduler_from_config(config), config, steps)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError):
        return False
    return True
