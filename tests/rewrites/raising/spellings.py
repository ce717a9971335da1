"""Operators written out by hand, in the ways that published diffusion code writes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from sdmobile.basics.metrics import psnr
from sdmobile.rewrites.engine import rewrite
from sdmobile.rewrites.program import run
from sdmobile.rewrites.rule import Rule


class Written(nn.Module):
    """A function of x, γ and β behind a linear step, so that x is neither an input nor a weight of the graph."""

    def __init__(self, function: Callable[..., Tensor], channels: int = 0) -> None:
        super().__init__()
        self.function = function
        generator = torch.Generator().manual_seed(7)
        self.affine = nn.ParameterList(torch.randn(channels, generator=generator) + 1 for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cumsum(x, 0)
        return torch.relu(self.function(x, *self.affine) if self.affine[0].numel() else self.function(x))


def captured(module: nn.Module, x: Tensor) -> ExportedProgram:
    with torch.no_grad():
        return torch.export.export(module.eval(), (x,), strict=False)


def targets(program: ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def raised(module: nn.Module, x: Tensor, rules: Sequence[Rule]) -> tuple[list[str], float, list[str | None]]:
    """Returns the operators after raising, how near the result is in dB, and the reasons of refusals."""
    program = captured(module, x)
    rewritten = rewrite(program, rules)
    decibels = psnr(run(program, (x,))[0].numpy(), run(rewritten.program, (x,))[0].numpy())
    return targets(rewritten.program), decibels, [r.reason for r in rewritten.records if r.outcome == "refused"]


def norm_of(
    statistics: Callable[[Tensor], tuple[Tensor, Tensor]], finish: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    """Returns a function that normalises: `finish` of the deviations and the variance."""

    def normalise(x: Tensor) -> Tensor:
        mean, variance = statistics(x)
        return finish(x - mean, variance)

    return normalise


def statistics(spelling: str, axes: list[int]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Returns mean and biased variance over the axes, in one of five spellings."""

    def compute(x: Tensor) -> tuple[Tensor, Tensor]:
        mean = x.mean(axes, keepdim=True)
        if spelling == "var":
            return mean, x.var(axes, correction=0, keepdim=True)
        if spelling == "var_mean":
            variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
            return mean, variance
        if spelling == "pow":
            return mean, (x - mean).pow(2).mean(axes, keepdim=True)
        if spelling == "moments":
            return mean, (x * x).mean(axes, keepdim=True) - mean * mean
        count = math.prod(x.shape[axis] for axis in axes)
        total = x.sum(axes, keepdim=True) / count
        return total, torch.square(x - total).sum(axes, keepdim=True) / count

    return compute


STATISTICS = ("var", "var_mean", "pow", "moments", "sum")
FINISHES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "rsqrt": lambda d, v: d * torch.rsqrt(v + 1e-5),
    "sqrt": lambda d, v: d / torch.sqrt(1e-5 + v),
    "half power": lambda d, v: d / (v + 1e-5) ** 0.5,
    "reciprocal": lambda d, v: torch.reciprocal((v + 1e-5).sqrt()) * d,
    "negative power": lambda d, v: (v + 1e-5).pow(-0.5) * d,
}
