"""The training command: every stage runs, a stopped run goes on to the same weights, the folder is a checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdmobile.checkpoints.shapes64.captions import caption
from sdmobile.training.config import BETAS, SCALING_FACTOR, Stage, TrainConfig, vae_config
from sdmobile.training.data import picture_batch, scene_batch
from sdmobile.training.diffusion import loss_weights
from sdmobile.training.loop import Trainer, learning_rate_factor
from sdmobile.training.shapes import quick, train_shapes
from sdmobile.training.text import labels
from sdmobile.training.vae import normalise_latents


def test_learning_rate_rises_stays_and_falls() -> None:
    stage = Stage(steps=100, batch=1, learning_rate=1.0, warmup=10, decay_share=0.5)
    factors = [learning_rate_factor(step, stage) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[10:50] == [1.0] * 40
    assert factors[75] == pytest.approx(0.5)
    assert factors[100] == 0.0


def test_loss_weights_are_those_of_v_prediction_in_the_middle() -> None:
    cumulative = torch.tensor([0.05, 0.2, 0.5, 0.8, 0.999])
    weights = loss_weights(cumulative)
    assert weights.mean().item() == pytest.approx(1.0)
    assert (weights[1] / weights[2]).item() == pytest.approx(2.5)  # (1/0.2) / (1/0.5)
    assert (weights[0] / weights[2]).item() == pytest.approx(5.0)  # capped at 10
    assert (weights[4] / weights[2]).item() == pytest.approx((1 / 0.999) * (5 / 999) / 2, rel=1e-3)  # Min-SNR


def test_normalised_latents_have_unit_variance_and_decode_alike() -> None:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae: Any = AutoencoderKL(**vae_config()).eval()
    pictures = picture_batch(0, 0, 16)
    with torch.no_grad():
        before = vae.decode(vae.encode(pictures).latent_dist.mean).sample
        noise = vae.encode(pictures).latent_dist.std / vae.encode(pictures).latent_dist.mean.std()
        normalise_latents(vae, pictures)
        posterior = vae.encode(pictures).latent_dist
        after = vae.decode(posterior.mean).sample
    assert (posterior.mean * SCALING_FACTOR).std().item() == pytest.approx(1.0, abs=1e-4)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(posterior.std / posterior.mean.std(), noise, rtol=1e-3, atol=1e-5)


def test_labels_name_every_claim() -> None:
    rng = np.random.default_rng(0)
    for scene in scene_batch(0, 0, 50):
        said = caption(rng, scene).claims
        row = labels(said)
        assert len(row) == 9
        assert (row[3] > 0) == (len(said.items) == 2)
        assert (row[6] > 0) == (said.background is not None)


def _trainer(folder: Path, steps: int) -> tuple[Trainer, torch.nn.Linear]:
    torch.manual_seed(0)
    module = torch.nn.Linear(4, 4)
    stage = Stage(steps=steps, batch=2, learning_rate=0.1, warmup=1, decay_share=0.01)
    folder.mkdir(exist_ok=True)
    groups = [{"params": list(module.parameters()), "lr": 0.1}]
    return Trainer(module, groups, stage, folder, ema=0.9), module


def _train(folder: Path, steps: int) -> torch.Tensor:
    trainer, module = _trainer(folder, steps)

    def loss_at(step: int) -> torch.Tensor:
        inputs = torch.randn(2, 4, generator=torch.Generator().manual_seed(step))
        return trainer.module(inputs).square().mean()

    trainer.run(loss_at, folder / "log.jsonl", 5, lambda *_: None)
    trainer.averaged()
    return module.weight.detach().clone()


def test_a_stopped_run_ends_at_the_weights_of_an_unbroken_one(tmp_path: Path) -> None:
    unbroken = _train(tmp_path / "whole", 20)
    _train(tmp_path / "parts", 10)
    resumed = _train(tmp_path / "parts", 20)
    # The schedule differs in the last 1 % of the first part only: its step 10 is the start of its decay.
    torch.testing.assert_close(resumed, unbroken, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_whole_command_makes_a_checkpoint_and_resumes(tmp_path: Path) -> None:
    from sdmobile.checkpoints import load_model, open_checkpoint

    config = quick(TrainConfig(tmp_path / "run"), steps=4)
    folder = train_shapes(config, lambda *_: None)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.prediction_type == BETAS["prediction_type"]
    assert checkpoint.scaling_factor == pytest.approx(SCALING_FACTOR)
    assert checkpoint.image_size == (64, 64)
    before = load_model(checkpoint, "unet").state_dict()
    again = train_shapes(replace(config), lambda *_: None)
    after = load_model(open_checkpoint(again), "unet").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    rows = [json.loads(line) for line in (tmp_path / "run" / "log-unet.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 4
