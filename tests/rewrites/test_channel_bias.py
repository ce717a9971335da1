"""The timestep in a residual block, added channels last: numbers, refusals, and the transposes that go."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sdmobile.basics.metrics import psnr
from sdmobile.rewrites.channel_bias import ChannelBias, add_linear
from sdmobile.rewrites.engine import rewrite
from sdmobile.rewrites.group_norm import GroupNormNhwcAmax
from tests.rewrites.litert_files import litert_file


class Block(nn.Module):
    """Convolutions with the embedding of the timestep and a norm between them, as in two residual blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(4, 8, 3), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 4, 3)])
        self.norms = nn.ModuleList([nn.GroupNorm(4, 8), nn.GroupNorm(3, 6)])
        self.projections = nn.ModuleList([nn.Linear(16, 8), nn.Linear(16, 6, bias=False)])

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2)
        x = self.norms[0](self.convs[0](x) + self.projections[0](e)[:, :, None, None])
        x = self.norms[1](self.projections[1](e).reshape(x.shape[0], -1, 1, 1) + self.convs[1](x))
        return self.convs[2](x).permute(0, 2, 3, 1)


@given(
    batch=st.integers(1, 3),
    rows=st.booleans(),
    size=st.tuples(st.integers(1, 5), st.integers(2, 5)),
    channels=st.integers(1, 6),
    bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_any_shape(batch: int, rows: bool, size: tuple[int, int], channels: int, bias: bool, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    image = torch.randn(batch, channels, *size, generator=g)
    features = torch.randn(batch if rows else 1, 7, generator=g)
    weight, b = torch.randn(channels, 7, generator=g), torch.randn(channels, generator=g) if bias else None
    expected = image.double() + torch.nn.functional.linear(
        features.double(), weight.double(), None if b is None else b.double()
    ).reshape(-1, channels, 1, 1)
    torch.testing.assert_close(add_linear(image, features, weight, b).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def inputs() -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    return torch.randn(2, 9, 9, 4), torch.randn(2, 16)


def test_transposes_go_and_the_blocks_share_a_reshape(inputs: tuple[Tensor, ...], tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    norm = GroupNormNhwcAmax()
    before = litert_file(Block(), inputs, [norm], tmp_path / "before").facts.operators
    case = litert_file(Block(), inputs, [norm, ChannelBias()], tmp_path)
    assert [record.outcome for record in case.records if record.rule == "channel_bias"] == ["applied"] * 2
    assert psnr(case.expected, case.run()) > 120
    assert before["TRANSPOSE"] == 4
    assert "TRANSPOSE" not in case.facts.operators
    assert before["RESHAPE"] - case.facts.operators["RESHAPE"] == 1


class Other(nn.Module):
    """Sums that look alike: a map of one pixel on each side, a linear layer with a second user, a factor."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        vector = self.linear(e)[:, :, None, None]
        scaled = torch.add(x, self.linear(e)[:, :, None, None], alpha=2)
        return scaled + (vector + vector.exp()) + (x + vector)


def test_other_sums_are_left_alone() -> None:
    program = torch.export.export(Other(), (torch.randn(2, 4, 3, 3), torch.randn(2, 3)))
    assert [record.outcome for record in rewrite(program, [ChannelBias()]).records] == ["unmatched"]
