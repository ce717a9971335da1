"""The tables of scheduler.json, used as an app would, give Diffusers' own trajectory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler

from sdmobile.errors import UnsupportedError
from sdmobile.families.sampler_tables import multistep_table, scheduler_document

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
