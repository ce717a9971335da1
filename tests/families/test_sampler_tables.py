"""The tables of scheduler.json, used as an app would, give Diffusers' own trajectory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler

from sdmobile.errors import UnsupportedError
from sdmobile.families.sampler_tables import multistep_table, solvers_of
from sdmobile.families.scheduler_document import scheduler_document
from sdmobile.families.schedulers import scheduler_from_config

BETAS = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def _model(x: np.ndarray, timestep: int) -> np.ndarray:
    return np.tanh(1.3 * x) + timestep / 1e4


def _app(rows: list[dict[str, float]], prediction_type: str, x: np.ndarray) -> np.ndarray:
    """The loop of a phone app: nothing but the table and its formulas."""
    before = np.zeros_like(x)
    for row in rows:
        out = _model(x, int(row["timestep"]))
        if prediction_type == "epsilon":
            clean = (x - row["sigma"] * out) / row["alpha"]
        else:
            clean = row["alpha"] * x - row["sigma"] * out
        x = row["a"] * x + row["b"] * clean + row["c"] * before
        before = clean
    return x


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("kind", [DPMSolverMultistepScheduler, DDIMScheduler])
def test_an_app_with_the_table_follows_diffusers(kind: type, spacing: str, prediction_type: str) -> None:
    config = {**BETAS, "timestep_spacing": spacing, "prediction_type": prediction_type}
    if kind is DDIMScheduler:
        config["clip_sample"] = False
    rows = multistep_table(kind(**config), 12)
    scheduler: Any = kind(**config)
    scheduler.set_timesteps(12)
    start = np.random.RandomState(0).standard_normal(32)
    x = torch.from_numpy(start)
    for timestep in scheduler.timesteps:
        out = torch.from_numpy(_model(x.numpy(), int(timestep)))
        x = scheduler.step(out, timestep, x).prev_sample
    np.testing.assert_allclose(_app(rows, prediction_type, start), x.numpy(), rtol=1e-4, atol=1e-4)


def test_a_scheduler_that_draws_noise_is_refused() -> None:
    scheduler = EulerAncestralDiscreteScheduler(**BETAS)
    with pytest.raises(UnsupportedError, match="linear"):
        multistep_table(scheduler, 5)


def test_the_document_holds_the_training_schedule() -> None:
    document = scheduler_document({**BETAS, "prediction_type": "epsilon", "clip_sample": True}, 0.18215)
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    np.testing.assert_allclose(document["alphas_cumprod"], np.cumprod(1 - betas), rtol=1e-4)
    assert set(document["solvers"]) == {"dpm++", "ddim"}
    assert len(document["solvers"]["dpm++"]["steps"]["20"]) == 20


ANCESTRAL = {**BETAS, "_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}


@pytest.mark.parametrize("steps", [1, 2, 4, 20])
@pytest.mark.parametrize("more", [{}, {"prediction_type": "v_prediction"}], ids=str)
def test_ancestral_steps_are_tables_with_fresh_noise(
    steps: int, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An app's loop with its own noise is Diffusers' loop with that noise in the place of torch's."""
    config = {"prediction_type": "epsilon", **ANCESTRAL, **more}
    solvers, note = solvers_of(config)
    assert (solvers[0].name, note) == ("euler-a", None)
    assert solvers[0].update == "x_next = a * x + b * D + n * z"
    draw = np.random.RandomState(3)
    fresh = draw.standard_normal((steps, 1, 1, 4, 4))
    values = iter(fresh)
    room = "diffusers.schedulers.scheduling_euler_ancestral_discrete.randn_tensor"
    monkeypatch.setattr(room, lambda *_, **__: torch.from_numpy(next(values)))
    scheduler = scheduler_from_config(config)
    scheduler.set_timesteps(steps)
    noise = draw.standard_normal((1, 1, 4, 4))
    latent, x = torch.from_numpy(noise * float(scheduler.init_noise_sigma)), noise * solvers[0].init_noise_sigma
    for row, timestep, z in zip(solvers[0].steps[str(steps)], scheduler.timesteps, fresh, strict=True):
        assert row["timestep"] == float(timestep)
        scaled = scheduler.scale_model_input(latent, timestep)
        np.testing.assert_allclose(x, scaled.numpy(), rtol=1e-4, atol=1e-4)
        output = np.tanh(1.3 * x) + float(timestep) / 1e4
        clean = (x - row["sigma"] * output) / row["alpha"]
        if config["prediction_type"] == "v_prediction":
            clean = row["alpha"] * x - row["sigma"] * output
        x = row["a"] * x + row["b"] * clean + row["n"] * z
        latent = scheduler.step(torch.from_numpy(output), timestep, latent).prev_sample
    np.testing.assert_allclose(x, latent.numpy(), rtol=2e-4, atol=2e-4)
    assert solvers[0].steps[str(steps)][-1]["n"] == 0.0
