"""`sdmobile train dit`: its equations against Diffusers', that it stops and goes on, and what folder it leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from sdmobile.checkpoints import bundled_checkpoint, open_checkpoint
from sdmobile.training.config import Stage
from sdmobile.training.dit.config import WIDTHS, DitConfig, text_config, transformer_config
from sdmobile.training.dit.flow import flow_loss, noise_levels
from sdmobile.training.dit.repeated_rows import RepeatedRows, with_one_idle_row, with_one_padding_row
from sdmobile.training.dit.run import tell_norms_apart, train_dit
from sdmobile.training.dit.text import encoded, identifiers


def test_one_idle_row_stands_for_all_that_diffusers_gives() -> None:
    torch.manual_seed(0)
    config = {**transformer_config(), "num_layers": 3}
    transformer: Any = SD3Transformer2DModel(**config).eval().requires_grad_(False)
    width = config["joint_attention_dim"]
    noisy, pooled, times = torch.randn(2, 4, 16, 16), torch.randn(2, width), torch.tensor([30.0, 900.0])
    features = torch.randn(2, 77, width)
    all_rows = torch.cat([features, torch.zeros(2, 256, width)], dim=1)
    wanted = transformer(noisy, all_rows, pooled, times, return_dict=False)[0]
    transformer.set_attn_processor(RepeatedRows())
    given_one = transformer(noisy, with_one_idle_row(features), pooled, times, return_dict=False)[0]
    torch.testing.assert_close(given_one, wanted, rtol=1e-4, atol=1e-5)
    without = transformer(noisy, features, pooled, times, return_dict=False)[0]
    assert (without - wanted).abs().max() > 1e-3  # the rows are seen


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 96), st.integers(0, 1000))
def test_every_step_sees_all_noise_levels(batch: int, seed: int) -> None:
    sigmas = noise_levels(torch.Generator().manual_seed(seed), batch)
    assert sigmas.shape == (batch,)
    assert bool(((sigmas > 0) & (sigmas < 1)).all())
    half = batch - batch // 2
    normal = torch.special.ndtr(sigmas[:half].logit())  # even again, if they were logit-normal
    assert (normal * half).long().clamp(max=half - 1).tolist() == list(range(half))
    assert (sigmas[half:] * (batch // 2)).long().tolist() == list(range(batch // 2))


def test_the_loss_is_zero_for_the_velocity_alone() -> None:
    clean, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sigmas = torch.tensor([0.1, 0.5, 0.9])
    seen: list[torch.Tensor] = []

    def velocity(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        seen.extend((noisy, timesteps))
        return noise - clean

    assert float(flow_loss(velocity, clean, noise, sigmas, ())) == 0.0
    torch.testing.assert_close(seen[0][1], 0.5 * clean[1] + 0.5 * noise[1])
    assert seen[1].tolist() == pytest.approx([100.0, 500.0, 900.0])
    assert float(flow_loss(lambda *_: noise, clean, noise, sigmas, ())) == pytest.approx(float(clean.square().mean()))


def test_texts_are_encoded_as_diffusers_encodes_them() -> None:
    """Features before the last layer and the projected row; the second text is filled up with identifier 0."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    tokenizer = CLIPTokenizer.from_pretrained(bundled_checkpoint() / "tokenizer")
    texts = ["a red circle", "a large blue square on a white background"]
    for name in WIDTHS:
        encoder: Any = CLIPTextModelWithProjection(CLIPTextConfig(**text_config(name, len(tokenizer)))).eval()
        ids = identifiers(name, tokenizer, texts)
        ends = (ids == tokenizer.eos_token_id).sum(dim=1)
        assert bool((ends == 1).all()) == (name == "text_encoder_2")
        assert int(ids[0, -1]) == (0 if name == "text_encoder_2" else tokenizer.eos_token_id)
        with torch.no_grad():
            features, pooled = encoded(encoder, ids)
            shorter = encoded(encoder, ids[:1])
        torch.testing.assert_close(shorter[0], features[:1], rtol=1e-4, atol=1e-5)
        assert features.shape == (2, 77, WIDTHS[name][0])
        assert pooled.shape == (2, WIDTHS[name][0])


def _config(output: Path) -> DitConfig:
    tiny = Stage(steps=2, batch=4, learning_rate=1e-3, warmup=1)
    return replace(DitConfig(output, scenes=16, save_every=1), text=tiny, transformer=tiny)


def test_a_stopped_run_goes_on_to_the_same_weights_and_leaves_a_checkpoint(tmp_path: Path) -> None:
    def weights(output: Path) -> np.ndarray:
        transformer: Any = SD3Transformer2DModel.from_pretrained(output / "transformer")
        return np.concatenate([p.detach().numpy().ravel() for p in transformer.parameters()])

    class Stop(Exception):
        pass

    def stop(stage: str, step: int, *_: object) -> None:
        if stage == "transformer":
            raise Stop

    whole = _config(tmp_path / "whole")
    folder = train_dit(whole, lambda *_: None)
    stopped = replace(_config(tmp_path / "stopped"), save_every=1)
    with pytest.raises(Stop):
        train_dit(stopped, stop)
    train_dit(stopped, lambda *_: None)
    np.testing.assert_array_equal(weights(stopped.output), weights(whole.output))

    checkpoint = open_checkpoint(folder)
    assert checkpoint.family.name == "stable-diffusion-3"
    assert (checkpoint.usual_steps, checkpoint.usual_guidance_scale) == (20, 3.0)
    assert not checkpoint.misfits
    assert all("_name_or_path" not in one.config for one in checkpoint.components.values())


def test_one_row_of_padding_stands_for_all_where_they_are_alike() -> None:
    torch.manual_seed(0)
    config = {**transformer_config(), "num_layers": 3}
    transformer: Any = SD3Transformer2DModel(**config).eval().requires_grad_(False)
    width = config["joint_attention_dim"]
    noisy, pooled, times = torch.randn(2, 4, 16, 16), torch.randn(2, width), torch.tensor([30.0, 900.0])
    features = torch.randn(2, 77, width)
    features[:, 20:] = features[:, 20:21]
    rows = RepeatedRows()
    transformer.set_attn_processor(rows)
    wanted = transformer(noisy, with_one_idle_row(features), pooled, times, return_dict=False)[0]
    fewer, rows.padding = with_one_padding_row(features, 20, np.random.default_rng(0))
    assert (fewer.shape, rows.padding) == ((2, 21, width), 57)
    found = transformer(noisy, with_one_idle_row(fewer), pooled, times, return_dict=False)[0]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    rows.padding = 1
    alone = transformer(noisy, with_one_idle_row(fewer), pooled, times, return_dict=False)[0]
    assert (alone - wanted).abs().max() > 1e-4  # it matters for how many rows it stands


def test_the_row_of_padding_is_one_behind_the_texts() -> None:
    features = torch.arange(77.0)[None, :, None].expand(3, 77, 2)
    drawn = [with_one_padding_row(features, 70, np.random.default_rng(seed))[0][0, -1, 0] for seed in range(60)]
    assert {int(row) for row in drawn} == set(range(70, 77))


def test_scales_that_are_the_same_are_told_apart_without_any_difference() -> None:
    torch.manual_seed(0)
    config = {**transformer_config(), "num_layers": 2}
    transformer: Any = SD3Transformer2DModel(**config).eval().requires_grad_(False)
    width = config["joint_attention_dim"]
    inputs = (torch.randn(2, 4, 16, 16), torch.randn(2, 20, width), torch.randn(2, width), torch.tensor([30.0, 900.0]))
    norms = transformer.transformer_blocks[0].attn2
    assert torch.equal(norms.norm_q.weight, norms.norm_k.weight)
    before = transformer(*inputs, return_dict=False)[0]
    tell_norms_apart(transformer)
    assert torch.equal(norms.norm_q.weight, 4 * norms.norm_k.weight)
    assert torch.equal(transformer(*inputs, return_dict=False)[0], before)
