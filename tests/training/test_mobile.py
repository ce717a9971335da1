"""The stages of `shapes-64-mobile`: their equations, and that the command trains, stops and goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from sdmobile.checkpoints import open_checkpoint
from sdmobile.models.unet import MobileUNet2DConditionModel, attention_layers, set_relu_attention
from sdmobile.training.config import BETAS, Stage
from sdmobile.training.mobile.adversarial import Game
from sdmobile.training.mobile.config import MobileConfig, unet_config
from sdmobile.training.mobile.decoder import matching_loss
from sdmobile.training.mobile.pairs import caption_of_pair, noise_of_pair
from sdmobile.training.mobile.progressive import ddim_step, draw_latents, target_of, trailing
from sdmobile.training.mobile.recover import NAME as RECOVERED
from sdmobile.training.mobile.relu import fold_gains
from sdmobile.training.mobile.run import STEPS, train_mobile
from sdmobile.training.mobile.world import World, open_world

_CUMULATIVE = DDIMScheduler(**BETAS).alphas_cumprod


def _world() -> World:
    """A world that has nothing but its noise schedule."""
    bare = cast("World", SimpleNamespace(alphas_cumprod=_CUMULATIVE))
    bare.__dict__["scales"] = lambda timesteps: World.scales(bare, timesteps)
    return bare


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_latents_are_those_of_diffusers_trailing_ddim(steps: int) -> None:
    scheduler = DDIMScheduler(
        **{**BETAS, "prediction_type": "v_prediction"}, timestep_spacing="trailing", clip_sample=False
    )
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == trailing(steps)
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    wanted = noise
    for timestep in scheduler.timesteps:
        wanted = scheduler.step(torch.tanh(wanted) + timestep / 1000, cast("int", timestep), wanted, return_dict=False)[
            0
        ]
    given = draw_latents(
        _world(), lambda x, t, _: torch.tanh(x) + t.reshape(-1, 1, 1, 1) / 1000, noise, torch.empty(0), steps
    )
    torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pair", [(999, 499), (499, -1), (249, -1)])
def test_the_target_leads_where_the_teacher_landed(pair: tuple[int, int]) -> None:
    now, following = (torch.full((3,), t) for t in pair)
    noisy, landed = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    target = target_of(_world(), noisy, now, landed, following)
    alpha, sigma = World.scales(_world(), now)
    v = (alpha * noisy - target) / sigma  # whose clean latent is the target
    torch.testing.assert_close(ddim_step(_world(), v, noisy, now, following), landed, rtol=1e-4, atol=1e-4)


def test_gains_are_the_best_ones_per_head() -> None:
    """With a gain per head folded in, no other one brings the outputs nearer to those of softmax."""
    torch.manual_seed(0)
    config = {**unet_config(), "block_out_channels": (16, 32, 48), "cross_attention_dim": 24}
    unet: Any = MobileUNet2DConditionModel(**config).eval().requires_grad_(False)
    inputs = (torch.randn(2, 4, 16, 16), torch.tensor([10, 700]), torch.randn(2, 7, 24))
    name = "mid_block.attentions.0.transformer_blocks.0.attn1"
    layer = attention_layers(unet)[name]
    before = layer.to_out[0].weight.clone()
    heard: dict[str, torch.Tensor] = {}
    layer.register_forward_pre_hook(lambda _layer, given: heard.update(x=given[0]))
    gains = fold_gains(unet, lambda: unet(*inputs))
    assert len(gains) == len(attention_layers(unet))
    assert all(gain > 0 for row in gains.values() for gain in row)
    columns = torch.tensor(gains[name]).repeat_interleave(16)
    torch.testing.assert_close(layer.to_out[0].weight, before * columns)

    soft = layer.processor.mixed(layer, heard["x"], heard["x"])
    set_relu_attention(unet, {"self": "length", "cross": "length"})
    relu = layer.processor.mixed(layer, heard["x"], heard["x"])
    for head, gain in enumerate(gains[name]):
        errors = [float((soft[:, head] - g * relu[:, head]).square().sum()) for g in (0.99 * gain, gain, 1.01 * gain)]
        assert errors[1] == min(errors)


def test_matching_loss_sees_edges() -> None:
    flat, other = torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.5)
    stripes = other.clone()
    stripes[..., ::2] = -0.5
    assert float(matching_loss(flat, flat)) == 0.0
    assert float(matching_loss(other, flat)) == pytest.approx(0.75)
    assert float(matching_loss(stripes, flat)) == pytest.approx(1.75)


def test_the_discriminator_sees_what_the_captions_are_of(tmp_path: Path) -> None:
    """Rows of the pairs: their own noise and picture, and the latent of the scene that their caption is of."""
    config = _config(tmp_path)
    world = open_world(config)
    pairs = torch.arange(8.0).reshape(8, 1, 1, 1).expand(8, 4, 16, 16)
    trainer: Any = SimpleNamespace(share=lambda rows: rows)
    rows = Game(config, world, pairs).batch(trainer, 3)
    assert rows.pure.flatten().tolist() == [True, True, False, False]
    assert rows.times[:2].tolist() == [999, 999]
    for row in range(2):
        index = int(rows.target[row, 0, 0, 0])
        scene, text = caption_of_pair(config, world, index)
        assert torch.equal(rows.noisy[row], noise_of_pair(config, index))
        assert torch.equal(rows.clean[row], world.latents.values[scene])
        torch.testing.assert_close(rows.states[row], world.encode([text])[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(rows.target[2:], rows.clean[2:])


def _config(output: Path, steps: int = 2) -> MobileConfig:
    tiny = Stage(steps=steps, batch=4, learning_rate=1e-3, warmup=1)
    names = ("structure", "decoder", "relu", "guidance", "halving", "regression", "adversarial", "control", "plugin")
    return replace(MobileConfig(output, scenes=16, pairs=8, save_every=1), **dict.fromkeys(names, tiny))


def test_every_stage_runs_and_leaves_a_checkpoint(tmp_path: Path) -> None:
    seen: list[str] = []
    config = _config(tmp_path / "run", steps=1)
    stages = ("structure", "decoder", "relu", "guidance", "progressive", "regression", "adversarial")
    train_mobile(config, stages, lambda stage, *_: seen.append(stage))
    assert list(dict.fromkeys(seen)) == list(stages)
    assert not (config.output / f"checkpoint-{RECOVERED}").exists()
    for stage, steps in ((stage, steps) for stage, steps in STEPS.items() if stage != RECOVERED):
        checkpoint = open_checkpoint(config.output / f"checkpoint-{stage}")
        distilled = steps < 20
        assert checkpoint.family.name == ("mobile-diffusion-few-steps" if distilled else "mobile-diffusion")
        assert checkpoint.usual_steps == steps
        assert checkpoint.usual_guidance_scale == (1.0 if distilled else 3.0)
        assert checkpoint.prediction_type == "epsilon"
        assert (checkpoint.components["unet"].config["noise_schedule"] is not None) == distilled
        assert all("_name_or_path" not in one.config for one in checkpoint.components.values())
        relu = checkpoint.components["unet"].config["relu_attention"]
        assert relu == (None if stage == "structure" else {"self": "length", "cross": "length"})
    assert not checkpoint.misfits


def test_a_stopped_stage_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    def weights(output: Path) -> np.ndarray:
        unet: Any = MobileUNet2DConditionModel.from_pretrained(output / "structure")
        return np.concatenate([p.detach().numpy().ravel() for p in unet.parameters()])

    whole = _config(tmp_path / "whole")
    train_mobile(whole, ("structure",), lambda *_: None)

    class Stop(Exception):
        pass

    def stop(_stage: str, step: int, *_: object) -> None:
        raise Stop

    stopped = _config(tmp_path / "stopped")
    stopped = replace(stopped, structure=replace(stopped.structure, steps=2))
    with pytest.raises(Stop):
        train_mobile(stopped, ("structure",), stop)
    assert (stopped.output / "stage-structure" / "progress.json").exists()
    train_mobile(stopped, ("structure",), lambda *_: None)
    np.testing.assert_array_equal(weights(stopped.output), weights(whole.output))


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(tmp_path: Path) -> None:
    """Each computes half of the batch, so that only the order of sums differs."""

    def losses(name: str, *launcher: str) -> list[float]:
        command = ["sdmobile.cli.app", "train", "mobile", "structure", "--quick", "50", "-o", str(tmp_path / name)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        subprocess.run([sys.executable, "-m", *launcher, *command], env=environment, check=True)
        rows = (tmp_path / name / "log-structure.jsonl").read_text("utf-8").splitlines()
        return [json.loads(row)["loss"] for row in rows]

    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "29654", "-m"]
    one, two = losses("one"), losses("two", *launch)
    assert len(one) == 2
    assert one[1] < 0.8 * one[0]
    np.testing.assert_allclose(two, one, rtol=2e-3)
    assert (tmp_path / "two" / "checkpoint-structure" / "unet" / "config.json").exists()
