"""RMSNorm in the spellings of Diffusers and Transformers becomes one operator; what only looks like it does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers.models.normalization import RMSNorm
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from sdmobile.rewrites.engine import agreement, rewrite
from sdmobile.rewrites.program import run
from sdmobile.rewrites.raising.norm import RaiseGroupNorm, RaiseLayerNorm
from sdmobile.rewrites.raising.rms_norm import RaiseRmsNorm
from sdmobile.rewrites.tidy import tidy
from tests.rewrites.raising.spellings import Written, captured, targets

RMS_NORM = "aten.rms_norm.default"
# As on every device: written-out LayerNorms hold an RMSNorm of deviations, and are raised first.
RULES = (RaiseGroupNorm(), RaiseLayerNorm(), RaiseRmsNorm())
WIDTH = 8


def raised(module: nn.Module, x: Tensor) -> tuple[list[str], float, list[str | None]]:
    """Returns the operators after raising, how near the result is in dB, and the reasons of refusals."""
    program, _ = tidy(captured(module, x))
    rewritten = rewrite(program, RULES)
    decibels = agreement(run(program, (x,)), run(rewritten.program, (x,)))
    return targets(rewritten.program), decibels, [r.reason for r in rewritten.records if r.outcome == "refused"]


class Behind(nn.Module):
    """A norm behind a linear layer, with random weights."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.norm = norm
        generator = torch.Generator().manual_seed(1)
        for parameter in norm.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x))


NORMS: dict[str, Callable[[], nn.Module]] = {
    "diffusers": lambda: RMSNorm(WIDTH, 1e-6),
    "diffusers without weight": lambda: RMSNorm(WIDTH, 1e-6, elementwise_affine=False),
    "t5": lambda: T5LayerNorm(WIDTH),
    "gemma": lambda: Gemma2RMSNorm(WIDTH),
    "qwen": lambda: Qwen3RMSNorm(WIDTH),
    "torch": lambda: nn.RMSNorm(WIDTH),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("shape", [(2, 5, WIDTH), (1, 2, 3, WIDTH)])
def test_the_spellings_of_libraries(name: str, shape: tuple[int, ...]) -> None:
    after, decibels, refusals = raised(Behind(NORMS[name]()), torch.randn(shape))
    assert refusals == []
    assert after.count(RMS_NORM) == 1
    assert not {"aten.pow.Tensor_Scalar", "aten.mean.dim", "aten.rsqrt.default", "aten.mul.Tensor"} & set(after)
    assert decibels > 120


def test_a_bias_is_added_behind() -> None:
    after, decibels, _ = raised(Behind(RMSNorm(WIDTH, 1e-6, bias=True)), torch.randn(2, 5, WIDTH))
    assert after[-2:] == [RMS_NORM, "aten.add.Tensor"]
    assert decibels > 120


SQUARES: dict[str, Callable[[Tensor], Tensor]] = {
    "pow": lambda x: x.pow(2),
    "product": lambda x: x * x,
    "square": torch.square,
}
FINISHES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "rsqrt": lambda x, m: x * torch.rsqrt(m + 1e-6),
    "sqrt": lambda x, m: x / torch.sqrt(1e-6 + m),
    "negative power": lambda x, m: torch.pow(m + 1e-6, -0.5) * x,
    "reciprocal": lambda x, m: torch.reciprocal((m + 1e-6) ** 0.5) * x,
}


@given(
    square=st.sampled_from(sorted(SQUARES)),
    finish=st.sampled_from(sorted(FINISHES)),
    summed=st.booleans(),
    scaled=st.sampled_from(["before", "after", "one more", "not"]),
    shape=st.sampled_from([(3, 8), (2, 5, 8), (1, 2, 3, 8)]),
)
@settings(max_examples=25, deadline=None)
def test_any_spelling(square: str, finish: str, summed: bool, scaled: str, shape: tuple[int, ...]) -> None:
    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        squares = SQUARES[square](x)
        y = FINISHES[finish](x, squares.sum(-1, keepdim=True) / 8 if summed else squares.mean(-1, keepdim=True))
        if scaled == "not":
            return y
        return weight * y if scaled == "before" else y * (1 + weight if scaled == "one more" else weight)

    after, decibels, refusals = raised(Written(function, 8), torch.randn(shape))
    assert refusals == []
    assert after.count(RMS_NORM) == 1
    assert "aten.mul.Tensor" not in after
    assert decibels > 120


def test_a_written_out_layer_norm_is_no_rms_norm_of_deviations() -> None:
    def function(x: Tensor) -> Tensor:
        d = x - x.mean(-1, keepdim=True)
        return d * torch.rsqrt((d * d).mean(-1, keepdim=True) + 1e-5)

    after, _, _ = raised(Written(function), torch.randn(2, 5, 8))
    assert "aten.layer_norm.default" in after
    assert RMS_NORM not in after


def test_modulation_by_an_activation_stays_behind() -> None:
    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        scale = x.mean(1, keepdim=True)
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * (1 + scale)

    after, decibels, _ = raised(Written(function, 8), torch.randn(2, 5, 8))
    assert RMS_NORM in after
    assert "aten.mul.Tensor" in after
    assert decibels > 120


def test_channels_first_is_refused_with_the_axis() -> None:
    def function(x: Tensor) -> Tensor:
        return x * torch.rsqrt((x * x).mean(1, keepdim=True) + 1e-6)

    after, _, refusals = raised(Written(function), torch.randn(2, 6, 3, 5))
    assert RMS_NORM not in after
    assert refusals == ["it normalises over the axes [1] of [2, 6, 3, 5]; the operator over the last"]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x / (x.pow(2).mean(-1, keepdim=True).sqrt() + 1e-6),
        lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True)),
        lambda x: x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1e-6),
        lambda x: x * torch.rsqrt(x.abs().mean(-1, keepdim=True) + 1e-6),
    ],
    ids=["epsilon outside the root", "no epsilon", "sum of squares", "mean of magnitudes"],
)
def test_other_equations_stay(function: Callable[[Tensor], Tensor]) -> None:
    after, _, _ = raised(Written(function), torch.randn(2, 5, 8))
    assert RMS_NORM not in after
