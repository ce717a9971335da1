"""The stages of the adapters: their condition, their start, and that they go on where they were stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdmobile.checkpoints.shapes64.checker import outline
from sdmobile.checkpoints.shapes64.held_out import held_out_captions, held_out_scenes
from sdmobile.checkpoints.shapes64.scenes import BACKGROUNDS, COLOURS, render, silhouette
from sdmobile.errors import UnsupportedError
from sdmobile.models.controlnet import MobileControlNetModel
from sdmobile.models.plugin import MobileControlPlugin
from sdmobile.models.unet import MobileUNet2DConditionModel, set_relu_attention
from sdmobile.training.config import Stage
from sdmobile.training.evaluate import measure_obedience, overlap
from sdmobile.training.mobile.assemble import assemble
from sdmobile.training.mobile.config import MobileConfig, unet_config
from sdmobile.training.mobile.control import (
    ControlStudent,
    PluginStudent,
    conditions,
    fresh_controlnet,
    fresh_plugin,
)
from sdmobile.training.mobile.decoder import teachers_autoencoder
from sdmobile.training.mobile.run import train_mobile
from sdmobile.training.shapes import evaluate

KINDS = {"control": MobileControlNetModel, "plugin": MobileControlPlugin}


def _base(**changes: Any) -> Any:
    torch.manual_seed(0)
    unet: Any = MobileUNet2DConditionModel(**{**unet_config(), **changes})
    set_relu_attention(unet, {"self": "length", "cross": "length"})
    return unet.eval().requires_grad_(False)


def test_a_silhouette_is_where_the_shapes_are() -> None:
    for scene, _ in held_out_scenes(12):
        picture, mask = render(scene).astype(float), silhouette(scene)
        assert (mask[..., 0] == mask[..., 1]).all()
        background = np.array(BACKGROUNDS[scene.background], float)
        colours = [np.array(COLOURS[item.colour], float) for item in scene.items]
        np.testing.assert_array_equal(
            picture[mask[..., 0] == 0], np.broadcast_to(background, picture[mask[..., 0] == 0].shape)
        )
        inside = picture[mask[..., 0] == 255]
        assert len(inside) > 25
        assert np.min([np.abs(inside - colour).max(-1) for colour in colours], axis=0).max() == 0


def test_the_outline_of_a_rendered_picture_is_its_silhouette() -> None:
    for scene, _ in held_out_scenes(12):
        drawn, wanted = outline(render(scene)), silhouette(scene)[..., 0] > 127
        assert (drawn & wanted).sum() / (drawn | wanted).sum() > 0.93
    assert not outline(np.full((64, 64, 3), 200, np.uint8)).any()


def test_held_out_prompts_are_those_of_the_scenes() -> None:
    assert [said for _, said in held_out_scenes(20)] == held_out_captions(20)


@pytest.mark.parametrize("name", list(KINDS))
def test_training_starts_at_the_base_bit_for_bit(name: str) -> None:
    base = _base()
    student = ControlStudent(fresh_controlnet(base)) if name == "control" else PluginStudent(fresh_plugin(base))
    generator = torch.Generator().manual_seed(1)
    noisy, states = torch.randn(2, 4, 16, 16, generator=generator), torch.randn(2, 77, 128, generator=generator)
    timesteps = torch.tensor([10, 900])
    picture = conditions([scene for scene, _ in held_out_scenes(2)])
    assert picture.shape == (2, 3, 64, 64)
    assert (float(picture.min()), float(picture.max())) == (0.0, 1.0)
    with torch.no_grad():
        given = base(noisy, timesteps, states, **student(noisy, timesteps, states, picture)).sample
        assert torch.equal(given, base(noisy, timesteps, states).sample)


def _config(output: Path) -> MobileConfig:
    tiny = Stage(steps=2, batch=2, learning_rate=1e-3, warmup=1)
    return replace(MobileConfig(output, scenes=2, save_every=1), control=tiny, plugin=tiny)


@pytest.mark.parametrize("name", list(KINDS))
def test_a_stopped_stage_goes_on_to_the_same_weights(name: str, tmp_path: Path) -> None:
    def weights(output: Path) -> np.ndarray:
        net: Any = KINDS[name].from_pretrained(output / name)
        return np.concatenate([p.detach().numpy().ravel() for p in net.parameters()])

    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    base = _base(block_out_channels=(16, 16, 32), mid_transformer_layers=None)
    for folder in ("whole", "stopped"):
        base.save_pretrained(tmp_path / folder / "relu")
    whole, stopped = _config(tmp_path / "whole"), _config(tmp_path / "stopped")
    train_mobile(whole, (name,), lambda *_: None)
    with pytest.raises(Stop):
        train_mobile(stopped, (name,), stop)
    assert (stopped.output / f"stage-{name}" / "progress.json").exists()
    assert not (stopped.output / name).exists()
    train_mobile(stopped, (name,), lambda *_: None)
    np.testing.assert_array_equal(weights(stopped.output), weights(whole.output))
    fresh = fresh_controlnet(base) if name == "control" else fresh_plugin(base)
    zero = "controlnet_mid_block.weight" if name == "control" else "conv_out.2.weight"
    trained: Any = KINDS[name].from_pretrained(whole.output / name)
    assert not fresh.state_dict()[zero].any()
    assert trained.state_dict()[zero].any()
    after: Any = MobileUNet2DConditionModel.from_pretrained(whole.output / "relu")
    assert all(torch.equal(one, other) for one, other in zip(after.parameters(), base.parameters(), strict=True))


def _painted(condition: np.ndarray) -> np.ndarray:
    return np.where(condition > 127, np.array(COLOURS["red"]), np.array(BACKGROUNDS["white"])).astype(np.uint8)


def test_overlap_by_hand() -> None:
    condition = np.zeros((64, 64, 3), np.uint8)
    condition[10:30, 10:30] = 255
    moved = np.roll(condition, 10, axis=1)
    assert overlap(_painted(condition), condition) == 1.0
    assert overlap(_painted(moved), condition) == pytest.approx(200 / 600)
    assert overlap(_painted(np.zeros_like(condition)), condition) == 0.0
    assert overlap(_painted(condition * 0), condition * 0) == 1.0


def test_evaluation_gives_every_prompt_its_silhouette() -> None:
    seen: list[tuple[str, int]] = []

    def draw(prompts: Sequence[str], seeds: Sequence[int], conditions: Sequence[np.ndarray]) -> list[np.ndarray]:
        seen.extend(zip(prompts, seeds, strict=True))
        for seed, condition in zip(seeds, conditions, strict=True):
            np.testing.assert_array_equal(condition, silhouette(held_out_scenes(4)[seed][0]))
        return [
            _painted(condition if seed else np.roll(condition, 32, axis=0))
            for seed, condition in zip(seeds, conditions, strict=True)
        ]

    record = measure_obedience(draw, 4, {"steps": 1}, lambda *_: None, controlled=True).to_json()
    assert seen == [(said.text, index) for index, said in enumerate(held_out_captions(4))]
    assert [one["iou"] for one in record["all"]][1:] == [1.0] * 3
    assert record["iou"] == pytest.approx((3 + record["all"][0]["iou"]) / 4)


def test_a_fresh_adapter_draws_what_the_base_draws(tmp_path: Path) -> None:
    """The command's function on a checkpoint, with and without; a bundle of pictures is not compared with control."""
    base = _base()
    fresh_controlnet(base).save_pretrained(tmp_path / "control")
    assemble(base, teachers_autoencoder(), tmp_path / "checkpoint", 20)
    made = []
    for control in (None, tmp_path / "control"):
        out = tmp_path / f"out-{control is None}"
        record = evaluate(tmp_path / "checkpoint", out, lambda *_: None, prompts=1, steps=2, control=control)
        made.append(((out / "samples.png").read_bytes(), record["iou"]))
        assert ("control" in record) == (control is not None)
    assert made[0] == made[1]
    assert record["control"]["kind"] == "controlnet"
    with pytest.raises(UnsupportedError, match="without a control network"):
        evaluate(tmp_path / "checkpoint", tmp_path, lambda *_: None, 1, 2, pictures=10, control=tmp_path / "control")
