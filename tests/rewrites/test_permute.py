"""Permutations of many axes as transpositions of at most four: the same bits, whatever the sizes and the order."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sdmobile.basics.metrics import psnr
from sdmobile.lint import lint_file
from sdmobile.rewrites.axis_order import MOST, transpositions
from sdmobile.rewrites.engine import agreement, rewrite
from sdmobile.rewrites.permute import PermuteRank4, permuted
from sdmobile.rewrites.program import run
from tests.rewrites.attention.reference import captured
from tests.rewrites.litert_files import litert_file

PATCHES_TO_PIXELS = (0, 5, 1, 3, 2, 4)


class Unpatchify(nn.Module):
    """(N, h·w, p·q·c) to (N, c, h·p, w·q), written in one of three ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.proj = nn.Linear(6, 2 * 2 * 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x).reshape(-1, 5, 3, 2, 2, 4)
        if self.way == "einsum":
            x = torch.einsum("nhwpqc->nchpwq", x)
        elif self.way == "permute":
            x = x.permute(PATCHES_TO_PIXELS)
        else:
            x = x.permute(0, -1, 1, 3, 2, -2).contiguous()
        return x.reshape(-1, 4, 10, 6)


def ranks(module: Callable[..., Tensor], *inputs: Tensor) -> tuple[int, int, float]:
    """Returns the highest rank of a value before and after the rule, and how near the outputs are, in dB."""
    before = captured(module, *inputs)  # type: ignore[arg-type]
    after = rewrite(before, [PermuteRank4()]).program
    highest = [
        max(n.meta["val"].ndim for n in p.graph.nodes if isinstance(n.meta.get("val"), Tensor)) for p in (before, after)
    ]
    return highest[0], highest[1], agreement(run(before, inputs), run(after, inputs))


@pytest.mark.parametrize("way", ["einsum", "permute", "contiguous"])
@pytest.mark.parametrize("batch", [1, 2])
def test_patches_to_pixels(way: str, batch: int) -> None:
    assert ranks(Unpatchify(way), torch.randn(batch, 15, 6)) == (6, 4, math.inf)


class Patchify(nn.Module):
    """(N, C, H, W) to (N, h·w, c·p·q), as FLUX's pipelines pack latents."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        x = x.abs().view(n, c, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        return x.reshape(n, -1, 4 * c) + 1


def test_pixels_to_patches() -> None:
    assert ranks(Patchify(), torch.randn(2, 3, 8, 6)) == (6, 4, math.inf)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_change_of_layout_is_written_as_one(batch: int) -> None:
    """So that converters that keep images channels last find the transposition that cancels their own."""
    steps = transpositions((batch, 5, 3, 2, 2, 4), PATCHES_TO_PIXELS, (batch, 15, 16), (batch, 4, 10, 6))
    assert steps == (((batch * 5, 3, 2, 8), (0, 2, 1, 3)), ((batch, 10, 6, 4), (0, 3, 1, 2)))
    first, _ = transpositions((batch, 4, 5, 2, 3, 2), (0, 2, 4, 3, 5, 1), (batch, 4, 10, 6), (batch, 15, 16))
    assert first == ((batch, 4, 10, 6), (0, 2, 3, 1))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_sizes_and_any_order(data: st.DataObject) -> None:
    sizes = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=6)))
    order = tuple(data.draw(st.permutations(range(len(sizes)))))
    x = torch.arange(math.prod(sizes))
    expected = x.reshape(sizes).permute(order)
    joined = (expected.shape[0], expected[0].numel())
    for taken, moved in transpositions(sizes, order, tuple(x.shape), joined):
        assert len(taken) == len(moved) <= MOST
    assert torch.equal(permuted(x, sizes, order, joined), expected.reshape(joined))


@given(
    *(st.integers(1, 3) for _ in range(2)),
    *(st.integers(1, 8) for _ in range(2)),
    *(st.integers(1, 4) for _ in range(2)),
)
@settings(max_examples=100, deadline=None)
def test_two_transpositions_are_enough_for_patches(n: int, c: int, h: int, w: int, p: int, q: int) -> None:
    sizes, shape = (n, h, w, p, q, c), (n, c, h * p, w * q)
    assert len(transpositions(sizes, PATCHES_TO_PIXELS, (n, h * w, p * q * c), shape)) <= 2
    x = torch.randn(n, h * w, p * q * c)
    expected = torch.einsum("nhwpqc->nchpwq", x.reshape(sizes)).reshape(shape)
    assert torch.equal(permuted(x, sizes, PATCHES_TO_PIXELS, shape), expected)


class Kept(nn.Module):
    """What is not the rule's business: four axes, an operand that is used elsewhere, a result of five."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        few = x.reshape(2, 3, 4, 10).permute(0, 2, 1, 3).reshape(2, 4, 30)
        many = x.reshape(2, 3, 2, 2, 5, 2)
        used = many.permute(PATCHES_TO_PIXELS).reshape(2, 2, 6, 10)
        return few, used, many.sum(0), (x * 2).reshape(2, 3, 4, 5, 2).permute(4, 0, 1, 2, 3).sum(0)


def test_other_graphs_are_left_alone() -> None:
    program = captured(Kept(), torch.randn(2, 120))
    (record,) = rewrite(program, [PermuteRank4()]).records
    assert record.outcome == "unmatched"


def test_pixart_runs_within_four_axes(tmp_path: Path) -> None:
    class Denoiser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            sizes: dict[str, Any] = {
                "num_attention_heads": 2,
                "attention_head_dim": 8,
                "cross_attention_dim": 16,
                "num_layers": 1,
            }
            self.component = PixArtTransformer2DModel(
                **sizes,
                in_channels=4,
                out_channels=4,
                sample_size=8,
                caption_channels=12,
                use_additional_conditions=False,
            )

        def forward(self, x: Tensor, text: Tensor, timestep: Tensor) -> Tensor:
            conditions = {"resolution": None, "aspect_ratio": None}
            return self.component(x, text, timestep, added_cond_kwargs=conditions, return_dict=False)[0]

    torch.manual_seed(0)
    inputs = (torch.randn(1, 4, 8, 8), torch.randn(1, 5, 12), torch.tensor([500.0]))
    for rules, accepted in (([], False), ([PermuteRank4()], True)):
        file = litert_file(Denoiser(), inputs, rules, tmp_path)
        assert psnr(file.expected, file.run()) > 120
        assert lint_file(file.path).accepted is accepted
