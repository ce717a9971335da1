"""Split-einsum takes the projections along as convolutions, wherever the heads are split and merged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from sdmobile.rewrites.attention.raise_attention import RaiseAttention
from sdmobile.rewrites.attention.split_einsum import AttentionSplitEinsum
from tests.rewrites.attention.reference import rewritten, targets

EINSUM = "aten.einsum.default"


class Attention(nn.Module):
    """Projections, attention and output projection, as Diffusers' processors write them."""

    def __init__(self, channels: int, heads: int, classic: bool = False, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(channels)
        self.heads, self.classic = heads, classic
        self.q, self.k, self.v = (nn.Linear(channels, channels, bias=bias) for _ in range(3))
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        b, _, c = x.shape
        q, k, v = (f(y).view(b, -1, self.heads, c // self.heads) for f, y in self._pairs(x, context))
        q, k, v = (y.permute(0, 2, 1, 3) for y in (q, k, v))
        if self.classic:
            q, k, v = (y.reshape(b * self.heads, -1, c // self.heads) for y in (q, k, v))
            y = torch.bmm((torch.bmm(q, k.transpose(1, 2)) * 0.3).softmax(-1), v)
            y = y.reshape(b, self.heads, -1, c // self.heads)
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(b, -1, c)) + x

    def _pairs(self, x: Tensor, context: Tensor) -> list[tuple[nn.Module, Tensor]]:
        return [(self.q, x), (self.k, context), (self.v, context)]


@pytest.mark.parametrize("classic", [False, True], ids=["operator", "written_out"])
def test_projections_become_convolutions(classic: bool) -> None:
    inputs = (torch.randn(2, 9, 12), torch.randn(2, 5, 12))
    result = rewritten(Attention(12, 3, classic), inputs, RaiseAttention(), AttentionSplitEinsum())
    record = result.records[-1]
    assert record.details["convolutions"] == ["query", "key", "value", "out"]
    assert record.details["score_bytes_after"] * 3 == record.details["score_bytes_before"]
    names = targets(result.program)
    assert names.count("aten.conv2d.default") == 4
    assert names.count(EINSUM) == 2 * 3
    assert "aten.linear.default" not in names


def test_self_attention_turns_its_input_once() -> None:
    class Own(Attention):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x, x)

    names = targets(rewritten(Own(12, 3), (torch.randn(1, 9, 12),), AttentionSplitEinsum()).program)
    # The input, the keys, the result.
    assert names.count("aten.transpose.int") == 3


@given(
    batch=st.integers(1, 2),
    heads=st.integers(1, 4),
    width=st.integers(1, 5),
    queries=st.integers(1, 9),
    keys=st.integers(1, 7),
    bias=st.booleans(),
    block=st.sampled_from([None, 1, 4]),
)
@settings(max_examples=60, deadline=None)
def test_any_size(batch: int, heads: int, width: int, queries: int, keys: int, bias: bool, block: int | None) -> None:
    channels = heads * width
    module = Attention(channels, heads, bias=bias)
    x, context = torch.randn(batch, queries, channels), torch.randn(batch, keys, channels)
    layers = zip((x, context, context), (module.q, module.k, module.v), strict=True)
    parts: Any = [part for tensor, layer in layers for part in (tensor, layer.weight, layer.bias)]
    parts += [module.out.weight, module.out.bias, None]
    options: Any = {"heads": heads, "merged": True, "is_causal": False, "scale": width**-0.5}
    y = AttentionSplitEinsum(query_block=block).replacement(*parts, **options)
    torch.testing.assert_close(y + x, module(x, context), rtol=1e-4, atol=1e-5)


class Rotated(Attention):
    """Something between projection and attention: no convolution may stand for it."""

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        b, _, c = x.shape
        q, k, v = (f(y).view(b, -1, self.heads, c // self.heads) for f, y in self._pairs(x, context))
        q, k, v = (y.transpose(1, 2) for y in (q.flip(-1), k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Scrambled(Attention):
    """A view that mixes positions and channels has the right shape and is no split of heads."""

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        b, n, c = x.shape
        q = self.q(x).view(b, self.heads, n, c // self.heads)
        return F.scaled_dot_product_attention(q, q, q).reshape(b, n, c)


@pytest.mark.parametrize(("module", "found"), [(Rotated, ["key", "value"]), (Scrambled, [])])
def test_only_projections_become_convolutions(module: type[Attention], found: list[str]) -> None:
    inputs = (torch.randn(2, 5, 12), torch.randn(2, 5, 12))
    result = rewritten(module(12, 3), inputs, AttentionSplitEinsum())
    assert result.records[0].details["convolutions"] == found
    assert result.checks[0].psnr_db > 110
