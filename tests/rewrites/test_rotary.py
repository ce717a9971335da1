"""The quarter turn of rotary embeddings: the same numbers with four axes, and a tiny FLUX.2 that Google's GPU takes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sdmobile.basics.metrics import psnr
from sdmobile.device_profiles import load_profile
from sdmobile.lint import lint_file
from sdmobile.rewrites.engine import agreement, rewrite
from sdmobile.rewrites.program import run
from sdmobile.rewrites.registry import rules_for
from sdmobile.rewrites.rotary import RotaryTurn, turned
from sdmobile.rewrites.tables import fold_tables
from tests.rewrites.attention.reference import captured
from tests.rewrites.litert_files import litert_file


class Rotated(nn.Module):
    """Diffusers' own function, of pairs of neighbours (-1) or of halves (-2)."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x.cumsum(0)
        rotations: Any = (cos, sin)
        y = apply_rotary_emb(x, rotations, use_real_unbind_dim=self.axis, sequence_dim=1)
        assert isinstance(y, Tensor)
        return y


@pytest.mark.parametrize("axis", [-1, -2])
def test_diffusers_rotary_embedding(axis: int) -> None:
    inputs = (torch.randn(2, 5, 3, 8), torch.randn(5, 8), torch.randn(5, 8))
    before = captured(Rotated(axis), *inputs)
    rewritten = rewrite(before, [RotaryTurn()])
    assert [record.outcome for record in rewritten.records] == ["applied"]
    ranks = {n.meta["val"].ndim for n in rewritten.program.graph.nodes if isinstance(n.meta.get("val"), Tensor)}
    assert max(ranks) == 4
    assert agreement(run(before, inputs), run(rewritten.program, inputs)) == math.inf


@given(lead=st.lists(st.integers(1, 4), min_size=1, max_size=3), pairs=st.integers(1, 9), halves=st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_shape(lead: list[int], pairs: int, halves: bool) -> None:
    x = torch.randn(*lead, 2 * pairs)
    if halves:
        expected = torch.cat([-x[..., pairs:], x[..., :pairs]], -1)
    else:
        expected = torch.stack([-x[..., 1::2], x[..., 0::2]], -1).flatten(-2)
    assert torch.equal(turned(x, halves), expected)
    assert torch.equal(turned(turned(x, halves), halves), -x)


class Others(nn.Module):
    """Neither swapped signs, nor swapped halves, nor a stack of two tensors is a quarter turn."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        first, second = x.reshape(2, 3, 4, 2).unbind(-1)
        other, _ = (x + 1).reshape(2, 3, 4, 2).unbind(-1)
        opposite = torch.stack([second, -first], -1).flatten(2)
        mirrored = torch.stack([-first, second], -1).flatten(2)
        mixed = torch.stack([-second, other], -1).flatten(2)
        return opposite, mirrored, mixed, torch.stack([-second, first], 2).flatten(2)


def test_other_turns_are_left_alone() -> None:
    (record,) = rewrite(captured(Others(), torch.randn(2, 3, 8)), [RotaryTurn()]).records
    assert record.outcome == "unmatched"


class Flux2(nn.Module):
    """A tiny FLUX.2 denoiser with the positions of a 4×4 picture and 5 tokens."""

    def __init__(self) -> None:
        super().__init__()
        heads: dict[str, Any] = {"attention_head_dim": 16, "num_attention_heads": 2, "axes_dims_rope": (4, 4, 4, 4)}
        self.component = Flux2Transformer2DModel(
            **heads,
            in_channels=8,
            num_layers=1,
            num_single_layers=1,
            joint_attention_dim=12,
            timestep_guidance_channels=16,
            guidance_embeds=False,
        )
        pixels = torch.arange(16)
        self.register_buffer("pixels", torch.stack([pixels * 0, pixels // 4, pixels % 4, pixels * 0], -1).float())
        self.register_buffer("tokens", torch.arange(5.0)[:, None] * torch.tensor([0.0, 0.0, 0.0, 1.0]))

    def forward(self, x: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        return self.component(
            hidden_states=x,
            encoder_hidden_states=text,
            timestep=timestep,
            img_ids=self.pixels,
            txt_ids=self.tokens,
            guidance=None,
            return_dict=False,
        )[0]


FLUX2_INPUTS = ((1, 16, 8), (1,), (1, 5, 12))


def test_flux2_on_an_android_gpu(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = tuple(torch.rand(shape) for shape in FLUX2_INPUTS)
    file = litert_file(Flux2(), inputs, rules_for(load_profile("galaxy-s23-ultra")), tmp_path)
    assert psnr(file.expected, file.run()) > 120
    assert lint_file(file.path).accepted
    assert file.facts.operators["odml.rms_norm"] == 6


def test_tables_of_rotary_embeddings_are_two_constants() -> None:
    """As captured they are computed in float64, which LiteRT's converter refuses; what expands them stays."""
    torch.manual_seed(0)
    inputs = tuple(torch.rand(shape) for shape in FLUX2_INPUTS)
    before = captured(Flux2(), *inputs)
    after, count = fold_tables(before)
    assert count == 2
    types = [
        {n.meta["val"].dtype for n in program.graph.nodes if isinstance(n.meta.get("val"), Tensor)}
        for program in (before, after)
    ]
    assert torch.float64 in types[0]
    assert types[1] == {torch.float32}
    assert agreement(run(before, inputs), run(after, inputs)) == math.inf
