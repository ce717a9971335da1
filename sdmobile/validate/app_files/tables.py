"""Runs the tables of `scheduler.json` as an app does, beside Diffusers' scheduler with the checkpoint's configuration.

    x ─▶ D from the prediction, by α and σ of the row ─▶ x' = a·x + b·D + c·D₋₁ + d·D₋₂ + n·z        the app
    x ─▶ scheduler.step(prediction)                                                                 Diffusers

Both get the same random predictions, one trajectory per table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.families.schedulers import SCHEDULERS
from sdmobile.validate.app_files.comparison import differences

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.formats.bundle.reading import Bundle
    from sdmobile.reference.pipeline import PipelineSpec
    from sdmobile.validate.app_files import Findings

TOLERANCE = 1e-4
"""Of the largest value of a trajectory; Diffusers steps in float32."""
_SHAPE = (1, 2, 3, 4)
_SETTINGS = {"algorithm_type", "solver_order", "thresholding", "use_lu_lambdas"}
"""What a bundle may say that it set on top of the checkpoint's configuration, to make a solver deterministic."""
_OTHERS = {"lcm": "LCMScheduler", "flow-euler": "FlowMatchEulerDiscreteScheduler", "scm": "SCMScheduler"}
_CLEAN = {
    "epsilon": "D = (x - sigma * prediction) / alpha",
    "v_prediction": "D = alpha * x - sigma * prediction",
    "sample": "D = prediction",
    "flow": "D = x - sigma * prediction",
}
_DECODE = "latent = x / scaling_factor"


def table_findings(
    document: Mapping[str, Any], _bundle: Bundle, checkpoint: Checkpoint, spec: PipelineSpec
) -> Findings:
    """Compares conventions and training schedule, and runs every table."""
    schedule = dict(spec.scheduler_config)
    scheduler = checkpoint.family.scheduler(schedule, None, checkpoint.family.default_steps)
    shifted = checkpoint.shift_factor != 0 or "shift_factor" in document
    found = differences(
        document,
        {
            "prediction_type": checkpoint.prediction_type,
            "clean_latent": _CLEAN[checkpoint.prediction_type],
            "decode": _DECODE + (" + shift_factor" if checkpoint.shift_factor else ""),
            "scaling_factor": checkpoint.scaling_factor,
            **({"shift_factor": checkpoint.shift_factor} if shifted else {}),
            **_training_schedule(scheduler),
        },
    )
    solvers = document.get("solvers")
    if not isinstance(solvers, dict) or not solvers:
        return [*found, "solvers: there is none"], {}
    found += _default(document, solvers, checkpoint.usual_steps)
    tables, worst = 0, 0.0
    for name, solver in solvers.items():
        faults, count, error = _run_solver(name, solver, document, checkpoint, schedule)
        found, tables, worst = [*found, *faults], tables + count, max(worst, error)
    return found, {"tables": tables, "largest_error": worst}


def _training_schedule(scheduler: Any) -> dict[str, Any]:
    """Returns what a document says of the training schedule; flow matching has no ᾱ."""
    if not hasattr(scheduler, "alphas_cumprod"):
        return {"num_train_timesteps": scheduler.config.num_train_timesteps}
    cumulative = scheduler.alphas_cumprod.double().tolist()
    return {"num_train_timesteps": len(cumulative), "alphas_cumprod": cumulative}


def _default(document: Mapping[str, Any], solvers: Mapping[str, Any], usual: int) -> list[str]:
    """Returns what is wrong with the solver and steps that an app takes where the user says nothing."""
    name, steps = document.get("default_solver"), document.get("default_steps")
    if not isinstance(name, str) or name not in solvers:
        return [f"default_solver is {name!r}; there are {', '.join(solvers)}"]
    if str(steps) not in solvers[name].get("steps", {}):
        return [f"default_steps is {steps!r}; {name} has no table of so many steps"]
    if str(usual) in solvers[name]["steps"] and steps != usual:
        return [f"default_steps is {steps!r}; the checkpoint's are {usual}"]
    return []


def _run_solver(
    name: str,
    solver: Mapping[str, Any],
    document: Mapping[str, Any],
    checkpoint: Checkpoint,
    schedule: Mapping[str, Any],
) -> tuple[list[str], int, float]:
    """Returns what is wrong, the number of tables and the largest relative error."""
    class_name = _OTHERS.get(name) or SCHEDULERS.get(name, (name, {}))[0]
    settings = solver.get("settings", {})
    if solver.get("diffusers_class") != class_name:
        return [f"{name} is Diffusers' {class_name}, not {solver.get('diffusers_class')!r}"], 0, 0.0
    if not set(settings) <= _SETTINGS:
        return [f"{name}: the settings {sorted(set(settings) - _SETTINGS)} change the checkpoint's schedule"], 0, 0.0
    tables = solver.get("steps") or {}
    if not tables:
        return [f"{name} has no tables"], 0, 0.0
    found, worst = [], 0.0
    config = {**schedule, "clip_sample": False, **settings}
    start = float(solver.get("init_noise_sigma", document.get("init_noise_sigma", float("nan"))))
    for steps, rows in tables.items():
        scheduler = checkpoint.family.scheduler(config, class_name, int(steps))
        fault, error = _run_table(rows, scheduler, start, checkpoint)
        worst = max(worst, error)
        if fault is not None:
            found.append(f"{name}, {steps} steps: {fault}")
    return found, len(tables), worst


def _run_table(
    rows: Sequence[Mapping[str, float]], scheduler: Any, start: float, checkpoint: Checkpoint
) -> tuple[str | None, float]:
    """Runs one table and Diffusers' scheduler on one random trajectory; returns what differs, and by how much."""
    import torch

    timesteps = list(scheduler.timesteps)
    stated = [float(row["timestep"]) for row in rows]
    if stated != [float(t) for t in timesteps]:
        return f"its timesteps {stated[:4]} … are not {[float(t) for t in timesteps[:4]]} …", 0.0
    draw = np.random.RandomState(0)
    noise = draw.standard_normal(_SHAPE)
    latent = torch.from_numpy(noise * float(scheduler.init_noise_sigma))
    x, past = noise * start, []
    worst = _error(x, _taken(scheduler, latent, timesteps[0]))
    for index, (row, timestep, following) in enumerate(zip_longest(rows, timesteps, timesteps[1:])):
        prediction, fresh = draw.standard_normal((2, *_SHAPE))
        past.insert(0, _clean(checkpoint.prediction_type, x, prediction, row))
        x = _next(row, x, past, fresh)
        output, generator = torch.from_numpy(prediction), torch.Generator().manual_seed(0)
        latent = checkpoint.family.step(scheduler, output, timestep, latent, generator, lambda fresh=fresh: fresh)
        worst = max(worst, _error(x, _taken(scheduler, latent, following)))
        if not worst <= TOLERANCE:
            return f"after step {index} it is off by {worst:.1e} of Diffusers' {type(scheduler).__name__}", worst
    return None, worst


def _taken(scheduler: Any, latent: Any, timestep: Any) -> NDArray[np.float64]:
    """Returns the latent as the denoiser takes it at a timestep; after the last step, None, as it is."""
    scaled = latent if timestep is None else scheduler.scale_model_input(latent, timestep)
    return scaled.double().numpy()


def _clean(
    prediction_type: str, x: NDArray[np.float64], prediction: NDArray[np.float64], row: Mapping[str, float]
) -> NDArray[np.float64]:
    """Returns D, the clean latent that a prediction implies."""
    if prediction_type == "sample":
        return prediction
    if prediction_type == "epsilon":
        return (x - row["sigma"] * prediction) / row["alpha"]
    if prediction_type == "flow":
        return x - row["sigma"] * prediction
    return row["alpha"] * x - row["sigma"] * prediction


def _next(
    row: Mapping[str, float], x: NDArray[np.float64], past: Sequence[NDArray[np.float64]], fresh: NDArray[np.float64]
) -> NDArray[np.float64]:
    following = row["a"] * x + row.get("n", 0.0) * fresh
    for column, clean in zip("bcd", past, strict=False):
        following = following + row.get(column, 0.0) * clean
    return following


def _error(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    """Returns the largest difference over the largest value; infinite where anything is not finite."""
    if not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return float("inf")
    return float(np.abs(found - expected).max() / max(1e-12, float(np.abs(expected).max())))
