"""Attention by its equation in float64, and inputs for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional as F

from sdmobile.rewrites.engine import Rewritten, rewrite
from sdmobile.rewrites.rule import Rule
from sdmobile.rewrites.tidy import tidy


@dataclass(frozen=True)
class Case:
    """Sizes and kind of one attention.

    Args:
        mask: "none", "causal", "boolean" or "added".
        magnitude: standard deviation of the unscaled scores.
    """

    batch: int
    heads: int
    queries: int
    keys: int
    head_dim: int
    value_dim: int
    mask: str
    magnitude: float
    seed: int


cases = st.builds(
    Case,
    batch=st.integers(1, 3),
    heads=st.integers(1, 4),
    queries=st.integers(1, 19),
    keys=st.integers(1, 23),
    head_dim=st.integers(1, 11),
    value_dim=st.integers(1, 9),
    mask=st.sampled_from(["none", "causal", "boolean", "added"]),
    magnitude=st.sampled_from([1e-6, 0.1, 1.0, 30.0, 1000.0]),
    seed=st.integers(0, 2**31),
)


def operands(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Returns query, key, value and mask of a case; every query may attend to at least one key."""
    generator = torch.Generator().manual_seed(case.seed)
    lead = (case.batch, case.heads)
    query = torch.randn(*lead, case.queries, case.head_dim, generator=generator) * case.magnitude
    key = torch.randn(*lead, case.keys, case.head_dim, generator=generator)
    value = torch.randn(*lead, case.keys, case.value_dim, generator=generator)
    kept = torch.rand(case.batch, 1, case.queries, case.keys, generator=generator) < 0.6
    kept[..., 0] = True
    added = torch.randn(case.queries, case.keys, generator=generator)
    return query, key, value, {"boolean": kept, "added": added}.get(case.mask)


def exact(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
    """Returns softmax(q kᵀ / √D + mask) v in float64."""
    query, key, value = query.double(), key.double(), value.double()
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask.double()
    return scores.softmax(-1) @ value


def tolerance(case: Case) -> float:
    """Returns what float32 may err: the rounding of a score, at its magnitude, is a relative error of its weight."""
    return 2e-5 * max(1.0, case.magnitude)


class Attend(nn.Module):
    """One attention operator, masked or causal."""

    def __init__(self, is_causal: bool = False, scale: float | None = None) -> None:
        super().__init__()
        self.is_causal, self.scale = is_causal, scale

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, mask, is_causal=self.is_causal, scale=self.scale)


def captured(module: nn.Module, *inputs: Tensor) -> ExportedProgram:
    """Returns the module's graph for inputs like these."""
    with torch.no_grad():
        return tidy(torch.export.export(module.eval(), inputs, strict=False))[0]


def rewritten(module: nn.Module, inputs: tuple[Tensor, ...], *rules: Rule) -> Rewritten:
    """Returns the module's graph after rules, each held to its own bound on the inputs."""
    return rewrite(captured(module, *inputs), rules, [inputs])


def targets(program: ExportedProgram) -> list[str]:
    """Returns the names of the operators in a graph."""
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def outcomes(result: Rewritten) -> list[tuple[str, str]]:
    """Returns (rule, outcome) of every record."""
    return [(record.rule, record.outcome) for record in result.records]
