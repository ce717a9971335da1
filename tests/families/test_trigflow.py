"""TrigFlow's consistency sampler: the steps of Diffusers' pipeline in the terms of flow matching, as tables."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families import kept_tables, trigflow
from sdmobile.families.trigflow import SCM, TABLED, trigflow_loop, trigflow_scheduler

CONFIG: dict[str, Any] = {
    "_class_name": SCM,
    "num_train_timesteps": 1000,
    "prediction_type": "trigflow",
    "sigma_data": 0.5,
}
SHAPE = (1, 2, 3, 4)


def drawn(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).standard_normal((count, *SHAPE), np.float32))


def by_angles(steps: int, deviation: float, velocities: list[np.ndarray], noise: list[np.ndarray]) -> list[np.ndarray]:
    """Returns σ_d·y after each step by the equations of TrigFlow, in float64.

    The velocity F of y is that of x, whose curve is the same with another speed: y = x·r, dy/dt by the chain rule.
    """
    angles = np.linspace(1.57080, 0, steps + 1) if steps != 2 else np.asarray([1.57080, 1.3, 0])
    y = noise[0].astype(np.float64)
    latents = []
    for step, (angle, following) in enumerate(pairwise(angles)):
        scale = np.cos(angle) + np.sin(angle)
        slope = np.cos(angle) - np.sin(angle)
        # dτ/dt = 1/scale², so that dy/dt = slope·x + scale·v/scale².
        speed = slope * (y / scale) + velocities[step] / scale
        clean = np.cos(angle) * y - np.sin(angle) * speed
        y = np.cos(following) * clean + np.sin(following) * noise[step + 1]
        latents.append(deviation * y)
    return latents


@pytest.mark.parametrize("deviation", [0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_steps_and_tables_are_those_of_trigflow(steps: int, deviation: float) -> None:
    velocities, noise = drawn(2 * steps + 1)[:steps], drawn(2 * steps + 1)[steps:]
    wanted = by_angles(steps, deviation, velocities, noise)
    config = {**CONFIG, "sigma_data": deviation}
    scheduler = trigflow_scheduler(config, None, steps)
    solver = trigflow_loop(config).solvers[0]
    stepped = torch.from_numpy(noise[0] * np.float32(scheduler.init_noise_sigma))
    tabled = noise[0] * solver.init_noise_sigma
    angles = [*np.arctan2(scheduler.timesteps, 1 - scheduler.timesteps).tolist(), 0.0]
    for step, row in enumerate(solver.steps[str(steps)]):
        time, fresh = scheduler.timesteps[step], noise[step + 1]
        stepped = scheduler.stepped(torch.from_numpy(velocities[step]), time, stepped, lambda fresh=fresh: fresh)
        clean = tabled - row["sigma"] * velocities[step]
        tabled = row["a"] * tabled + row["b"] * clean + row["n"] * fresh
        scale = np.cos(angles[step + 1]) + np.sin(angles[step + 1])
        np.testing.assert_allclose(stepped.numpy() * scale * deviation, wanted[step], atol=2e-6)
        np.testing.assert_allclose(tabled * scale * deviation, wanted[step], atol=1e-6)
    assert scheduler.timesteps.tolist() == [row["timestep"] for row in solver.steps[str(steps)]]


def test_noise_is_drawn_between_steps_alone() -> None:
    scheduler = trigflow_scheduler(CONFIG, "scm", 1)
    velocity = torch.from_numpy(drawn(1)[0])
    last = scheduler.stepped(velocity, scheduler.timesteps[0], torch.zeros(SHAPE), lambda: pytest.fail("noise drawn"))
    torch.testing.assert_close(last, -velocity, atol=1e-5, rtol=0)
    assert scheduler.init_noise_sigma == pytest.approx(1, abs=1e-5)


def test_a_picture_is_mixed_with_noise_as_in_trigflow() -> None:
    scheduler = trigflow_scheduler(CONFIG, SCM, 2)
    picture, noise = map(torch.from_numpy, drawn(2))
    angle = torch.tensor(1.3)
    mixed = scheduler.add_noise(picture, noise, scheduler.timesteps[1:])
    expected = (angle.cos() * picture + angle.sin() * noise) / (angle.cos() + angle.sin())
    torch.testing.assert_close(mixed, expected)
    assert scheduler.scale_model_input(mixed, scheduler.timesteps[1]) is mixed


def test_the_published_loop_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(_config: Mapping[str, Any]) -> Any:
        pytest.fail("Diffusers was asked")

    monkeypatch.setitem(kept_tables.MAKERS, kept_tables.TRIGFLOW, asked)  # pyright: ignore[reportArgumentType]
    stated = {**CONFIG, "_diffusers_version": "0.33.0", "max_timesteps": 1.5708, "intermediate_timesteps": 1.3}
    loop = kept_tables.loop_of(stated, kept_tables.TRIGFLOW)
    assert loop == trigflow_loop(CONFIG)
    assert loop.lengths == TABLED
    assert loop.solvers[0].draws_noise


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, UnsupportedError, f"must be {SCM}"),
        ({"prediction_type": "epsilon"}, UnsupportedError, "predicts trigflow"),
        ({"num_train_timesteps": 0}, CheckpointError, "num_train_timesteps"),
        ({"sigma_data": 0.0}, CheckpointError, "sigma_data"),
    ],
)
def test_other_schedules_are_refused(change: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        trigflow.check_trigflow({**CONFIG, **change})


def test_other_samplers_and_too_many_steps_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="a sampler of its own"):
        trigflow_scheduler(CONFIG, "ddim", 2)
    with pytest.raises(UnsupportedError, match="at most 1000 steps"):
        trigflow_scheduler(CONFIG, None, 1001)
