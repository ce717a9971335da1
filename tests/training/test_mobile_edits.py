"""The stages "lora" and "inpaint": their style, masks and beginnings, and that they train, stop and go on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from sdmobile.basics.metrics import to_pixels
from sdmobile.checkpoints import Changes, LoraFile, load_model, open_checkpoint
from sdmobile.checkpoints.shapes64.captions import caption
from sdmobile.checkpoints.shapes64.checker import compare
from sdmobile.checkpoints.shapes64.scenes import render, sample_scene
from sdmobile.checkpoints.shapes64.styles import hollowness, render_hollow
from sdmobile.cli.app import app
from sdmobile.models.unet import MobileUNet2DConditionModel, set_relu_attention
from sdmobile.training.config import Stage
from sdmobile.training.mobile.assemble import assemble
from sdmobile.training.mobile.config import MobileConfig, unet_config
from sdmobile.training.mobile.decoder import teachers_autoencoder
from sdmobile.training.mobile.inpaint import carried_over, shape_mask, training_masks, widened
from sdmobile.training.mobile.lora import add_lora, lora_file, save_lora
from sdmobile.training.mobile.run import train_mobile
from sdmobile.training.mobile.student import copy_of


def test_the_style_is_told_still_read_and_kept_by_the_autoencoder() -> None:
    rng = np.random.default_rng(0)
    plain: list[np.ndarray] = []
    styled: list[np.ndarray] = []
    for _ in range(60):
        scene = sample_scene(rng)
        claims = caption(rng, scene).claims
        plain.append(render(scene))
        styled.append(render_hollow(scene))
        assert hollowness(plain[-1]) == pytest.approx(0, abs=0.01)
        assert hollowness(styled[-1]) == pytest.approx(1, abs=0.1)
        assert compare(styled[-1], claims)[0] == []
    vae: Any = load_model(open_checkpoint(), "vae")
    for pictures, least, most in ((plain, -0.1, 0.1), (styled, 0.75, 1.0)):
        pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            kept = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
        assert least < np.mean([hollowness(to_pixels(one[None].numpy())) for one in kept]) < most
    assert hollowness(np.zeros((64, 64, 3), np.uint8)) == 0


def _base(folder: Path) -> MobileUNet2DConditionModel:
    """Writes a random UNet where stage "relu" leaves its own, so that nothing before is trained."""
    torch.manual_seed(0)
    unet = MobileUNet2DConditionModel(**unet_config()).eval()
    set_relu_attention(unet, {"self": "length", "cross": "length"})
    unet.save_pretrained(folder / "relu")
    return unet


def _config(output: Path, steps: int = 2) -> MobileConfig:
    tiny = Stage(steps=steps, batch=4, learning_rate=1e-3, warmup=1)
    return replace(MobileConfig(output, scenes=16, save_every=1), lora=tiny, inpaint=tiny)


def _inputs(channels: int = 4) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    noisy, states = torch.randn(3, channels, 16, 16, generator=generator), torch.randn(3, 77, 128, generator=generator)
    return noisy, torch.tensor([3, 500, 999]), states


def test_step_0_of_inpainting_is_the_base_bit_for_bit(tmp_path: Path) -> None:
    base: Any = _base(tmp_path)
    wider = widened(base)
    assert wider.config.in_channels == 9
    noisy, times, states = _inputs(9)
    with torch.no_grad():
        given = wider(noisy, times, states, return_dict=False)[0]
        wanted = base(noisy[:, :4].contiguous(), times, states, return_dict=False)[0]
    assert torch.equal(given, wanted)


def test_what_was_learned_is_carried_over_to_a_later_unet(tmp_path: Path) -> None:
    base: Any = _base(tmp_path)
    trained, later = widened(base), copy_of(base)
    with torch.no_grad():
        for unet in (trained, later):
            for weight in unet.parameters():
                weight += 0.01 * torch.randn_like(weight)
    noisy, times, states = _inputs(9)
    own = noisy[:, :4].contiguous()
    with torch.no_grad():
        learned, changed = trained(noisy, times, states)[0], later(own, times, states)[0]
        torch.testing.assert_close(carried_over(trained, base, base)(noisy, times, states)[0], learned)
        torch.testing.assert_close(carried_over(widened(base), base, later)(noisy, times, states)[0], changed)
        assert not torch.allclose(carried_over(trained, base, later)(noisy, times, states)[0], learned, atol=1e-3)


def test_masks_cover_a_shape_or_a_rectangle() -> None:
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(64)]
    masks = training_masks(rng, scenes)
    assert masks.shape == (64, 1, 64, 64)
    assert set(np.unique(masks)) == {0.0, 1.0}
    assert all(0.02 < mask.mean() < 0.6 for mask in masks)
    for scene in scenes:
        blank = render(replace(scene, items=scene.items[1:]))
        changed = (render(scene) != blank).any(axis=-1)
        assert changed.any()
        assert not (changed & (shape_mask(scene.items[0]) < 0.5)).any()


def test_a_saved_lora_is_fused_to_the_trained_unet(tmp_path: Path) -> None:
    """On the base, and on a UNet with other weights, such as a later stage's."""
    base: Any = _base(tmp_path)
    student = add_lora(base)
    trained = {name: p for name, p in student.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trained)
    assert {p.shape[0] for name, p in trained.items() if "lora_A" in name} == {8}
    with torch.no_grad():
        assert torch.equal(student(*_inputs())[0], base(*_inputs())[0])
        for parameter in trained.values():
            parameter.normal_(0, 0.1)
    save_lora(student, tmp_path / "lora.safetensors")
    assert all(name.startswith("unet.") for name in load_file(tmp_path / "lora.safetensors"))
    vae = teachers_autoencoder()
    assemble(base.half().float(), vae, tmp_path / "base", 20)
    opened = open_checkpoint(tmp_path / "base", changes=Changes((LoraFile(tmp_path / "lora.safetensors"),)))
    assert len(opened.loras[0].layers) == len(trained) // 2
    fused: Any = load_model(opened, "unet")
    with torch.no_grad():
        given, wanted = fused(*_inputs())[0], student(*_inputs())[0]
        plain = base(*_inputs())[0]
    # The checkpoint is stored in float16.
    assert float((given - wanted).abs().max()) < 0.05 * float((plain - wanted).abs().max())


def test_both_stages_train_stop_go_on_and_leave_what_commands_take(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(_stage: str, step: int, *_: object) -> None:
        raise Stop

    whole, stopped = _config(tmp_path / "whole"), _config(tmp_path / "stopped")
    for config in (whole, stopped):
        _base(config.output)
    train_mobile(whole, ("lora", "inpaint"), lambda *_: None)
    for stage in ("lora", "inpaint"):
        config = replace(stopped, **{stage: replace(getattr(stopped, stage), steps=2)})
        with pytest.raises(Stop):
            train_mobile(config, (stage,), stop)
        train_mobile(stopped, (stage,), lambda *_: None)
    once, twice = (load_file(lora_file(config)) for config in (whole, stopped))
    assert once.keys() == twice.keys()
    assert all(torch.equal(once[name], twice[name]) for name in once)
    assert any(value.any() for name, value in once.items() if "lora_B" in name)
    nets: list[Any] = [
        MobileUNet2DConditionModel.from_pretrained(c.output / "inpaint").state_dict() for c in (whole, stopped)
    ]
    assert all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])
    assert nets[0]["conv_in.weight"][:, 4:].any()

    checkpoint = open_checkpoint(whole.output / "checkpoint-inpaint")
    assert checkpoint.family.name == "mobile-diffusion-inpainting"
    assert not checkpoint.misfits
    out = tmp_path / "judged"
    for command, source, options in (
        ("evaluate-inpainting", "inpaint", []),
        ("evaluate", "relu", ["--lora", lora_file(whole)]),
    ):
        arguments = ["train", command, whole.output / f"checkpoint-{source}", "-o", out / source, *options]
        result = CliRunner().invoke(app, [*map(str, arguments), "--prompts", "2", "--steps", "2"])
        assert result.exit_code == 0, result.output
    judged = json.loads((out / "inpaint" / "obedience.json").read_text())
    assert judged["prompts"] == 2
    assert judged["outside_of_the_mask"] > 0
    refused = CliRunner().invoke(app, ["train", "evaluate", str(whole.output / "checkpoint-inpaint")])
    assert "evaluate-inpainting" in str(refused.exception)
    styled = json.loads((out / "relu" / "obedience.json").read_text())
    assert styled["changes"] == [f"--lora {lora_file(whole).name}:1"]
    assert np.isfinite(styled["hollowness"])


def test_a_base_is_recovered_from_what_ships(tmp_path: Path) -> None:
    """It begins with the distilled UNet's prediction of noise, bit for bit, and is sampled with guidance again."""
    config = replace(_config(tmp_path), distilled=Path("shapes-64-mobile"))
    config = replace(config, recover=replace(config.lora, learning_rate=0.0))
    train_mobile(config, ("lora",), lambda *_: None)
    assert lora_file(config).is_file()
    assert not (tmp_path / "relu").exists()
    recovered = open_checkpoint(tmp_path / "checkpoint-recover")
    assert recovered.family.name == "mobile-diffusion"
    given, wanted = load_model(recovered, "unet"), load_model(open_checkpoint(Path("shapes-64-mobile")), "unet")
    with torch.no_grad():
        assert torch.equal(given(*_inputs())[0], wanted(*_inputs())[0])
    assert json.loads((tmp_path / "config.json").read_text())["distilled"] == "shapes-64-mobile"
