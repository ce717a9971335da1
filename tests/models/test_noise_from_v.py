"""ε of a prediction of v: the equation, at every timestep, and what float16 leaves of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler

from sdmobile.checkpoints import load_model, open_checkpoint
from sdmobile.errors import UnsupportedError
from sdmobile.models.noise_from_v import NoiseFromV
from sdmobile.models.unet import MobileUNet2DConditionModel
from sdmobile.training.config import BETAS
from tests.families.tiny.mobile_diffusion import UNET, write

_SCHEDULE = {key: value for key, value in BETAS.items() if key != "prediction_type"}


def _inputs(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    v, noisy = torch.randn(2, count, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    return v, noisy


def test_at_every_timestep_it_is_the_noise_of_diffusers() -> None:
    timesteps = torch.arange(1000)
    v, noisy = _inputs(1000)
    cumulative = DDIMScheduler(**BETAS).alphas_cumprod.double().reshape(-1, 1, 1, 1)
    wanted = cumulative.sqrt() * v.double() + (1 - cumulative).sqrt() * noisy.double()
    torch.testing.assert_close(NoiseFromV(_SCHEDULE)(v, noisy, timesteps).double(), wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("timestep", "least"), [(999, 46.0), (499, 60.0)])
def test_float16_leaves_the_picture_that_a_sampler_divides_for(timestep: int, least: float) -> None:
    """At 999 a sampler divides by α = 0.068: with σ in the place of 1 − σ 44 dB of the picture are left."""
    v, noisy = _inputs(16)
    alpha = DDIMScheduler(**BETAS).alphas_cumprod[timestep].sqrt()
    sigma = (1 - alpha.square()).sqrt()
    at = torch.full((16,), timestep)
    noise = NoiseFromV(_SCHEDULE).half()(v.half(), noisy.half(), at).float()
    picture, wanted = (noisy - sigma * noise) / alpha, alpha * noisy - sigma * v
    decibels = -10 * torch.log10((picture - wanted).square().mean() / wanted.square().mean())
    assert decibels > least


def test_a_unet_with_a_schedule_returns_noise() -> None:
    torch.manual_seed(0)
    plain: Any = MobileUNet2DConditionModel(**UNET).eval()
    noise: Any = MobileUNet2DConditionModel(**UNET, noise_schedule=_SCHEDULE).eval()
    noise.load_state_dict(plain.state_dict())
    _, noisy = _inputs(2)
    timesteps, text = torch.tensor([10, 900]), torch.randn(2, 7, 32)
    with torch.no_grad():
        v = plain(noisy, timesteps, text).sample
        given = noise(noisy, timesteps, text).sample
    cumulative = DDIMScheduler(**BETAS).alphas_cumprod[timesteps].reshape(-1, 1, 1, 1)
    torch.testing.assert_close(given, cumulative.sqrt() * v + (1 - cumulative).sqrt() * noisy, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "schedule",
    [
        "scaled_linear",
        {**_SCHEDULE, "num_train_timesteps": 2049},
        {**_SCHEDULE, "num_train_timesteps": 10**12},
        {**_SCHEDULE, "num_train_timesteps": True},
        {**_SCHEDULE, "beta_schedule": "cosine"},
        {**_SCHEDULE, "beta_end": float("nan")},
        {**_SCHEDULE, "beta_end": 1.0},
        {**_SCHEDULE, "trained_betas": [0.1]},
        {"num_train_timesteps": 1000},
    ],
    ids=["text", "2049", "10^12", "true", "cosine", "nan", "no signal", "trained", "no betas"],
)
def test_a_checkpoint_with_a_schedule_that_is_none_is_refused(schedule: Any, tmp_path: Path) -> None:
    folder = write(tmp_path / "tiny")
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "noise_schedule": schedule}))
    checkpoint = open_checkpoint(folder)
    with pytest.raises(UnsupportedError, match="configuration of unet"):
        load_model(checkpoint, "unet")


def test_a_schedule_lies_in_the_configuration_alone(tmp_path: Path) -> None:
    """The tables are no weights: a checkpoint has the same tensors with and without it, and loads."""
    checkpoint = open_checkpoint(write(tmp_path / "tiny", noise_schedule=_SCHEDULE))
    loaded: Any = load_model(checkpoint, "unet")
    assert set(checkpoint.components["unet"].tensors) == set(MobileUNet2DConditionModel(**UNET).state_dict())
    v, noisy = _inputs(1)
    wanted = NoiseFromV(_SCHEDULE)(v, noisy, torch.tensor([999]))
    torch.testing.assert_close(loaded.noise_from_v(v, noisy, torch.tensor([999])), wanted, rtol=0, atol=0)
