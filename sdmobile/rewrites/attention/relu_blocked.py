"""ReLU attention that a checkpoint declares, a block of queries at a time.

    out[i] = relu(c · q[i] kᵀ) v        q[i]: as many rows as B · H · rows · N scores fit the budget

A row of scores needs no other row, and there is no sum over the keys, so the blocks are exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from sdmobile.device_profiles.runtime_rules.attention_forms import AttentionShape
from sdmobile.rewrites.attention.blocked import block_rows, in_blocks, over_budget
from sdmobile.rewrites.operators import shape_of
from sdmobile.rewrites.rule import Exactness, Match, Rule

_RELU, _MATMUL, _MUL = torch.ops.aten.relu.default, torch.ops.aten.matmul.default, torch.ops.aten.mul.Tensor


@dataclass(frozen=True)
class ReluAttentionBlocked(Rule):
    """Blocks of equal height, of which the last one may be lower; only where the scores exceed the budget.

    Captured:
        s = mul(matmul(q, kᵀ), c)                                       (B, H, M, N)
        y = matmul(relu(s), v)                                          (B, H, M, E)

    Rewritten:
        q₁, …, qₙ = split(q, rows, -2)                                  (B, H, rows, D) each
        oᵢ = matmul(relu(mul(matmul(qᵢ, kᵀ), c)), v)                    (B, H, rows, E), scores of (B, H, rows, N)
        y = transpose(cat(transpose(o₁, 1, 2), …), 1, 2)                (B, H, M, E)

    Args:
        budget_bytes: most bytes of the scores of one block, in all heads and images.
        element_bytes: bytes of a score on the device: 2 for float16, 4 for float32.
    """

    name = "relu_attention_blocked"
    title = "ReLU attention in blocks of queries whose scores fit a byte budget"
    source = "Zhao et al. 2023 (arXiv 2311.16567) for ReLU attention; the budget is the device profile's"
    exactness = Exactness.UP_TO_ROUNDING
    bound_db = 100.0

    budget_bytes: int = 134_217_728
    element_bytes: int = 2

    def matches(self, graph: Graph) -> Iterable[Match]:
        found = (_match(node) for node in graph.find_nodes(op="call_function", target=_RELU))
        return [match for match in found if match is not None and self._exceeds(match)]

    def _exceeds(self, match: Match) -> bool:
        return _shape(match).score_bytes(self.element_bytes) > self.budget_bytes

    def check(self, match: Match) -> str | None:
        return over_budget(_shape(match), self.budget_bytes, self.element_bytes)

    def replacement(self, query: Tensor, key: Tensor, value: Tensor, *, factor: float) -> Tensor:
        rows = block_rows(_sizes(query.shape, key.shape, value.shape), self.budget_bytes, self.element_bytes)
        return in_blocks(query, None, rows, lambda block, _: (block @ key * factor).relu() @ value)

    def details(self, match: Match) -> dict[str, Any]:
        shape, size = _shape(match), self.element_bytes
        rows = shape.queries if self.check(match) else block_rows(shape, self.budget_bytes, size)
        return {
            "shape": shape.to_json(),
            "score_bytes_before": shape.score_bytes(size),
            "score_bytes_after": shape.row_bytes(size) * rows,
        }


def _match(relu: Node) -> Match | None:
    """Returns the match of an attention around a ReLU; None where there is none."""
    scaled, factor = relu.args[0], 1.0
    covers = [relu]
    if isinstance(scaled, Node) and scaled.target == _MUL and isinstance(scaled.args[1], (int, float)):
        covers.append(scaled)
        factor, scaled = float(scaled.args[1]), scaled.args[0]
    users = list(relu.users)
    if not isinstance(scaled, Node) or scaled.target != _MATMUL or len(users) != 1:
        return None
    (root,), covers = users, [*covers, scaled]
    if root.target != _MATMUL or root.args[0] is not relu or any(len(node.users) != 1 for node in covers):
        return None
    tensors = (*scaled.args, root.args[1])
    if any(not isinstance(one, Node) or len(shape_of(one)) != 4 for one in tensors):
        return None
    return Match(root, tensors, {"factor": factor}, (root, *covers))  # pyright: ignore[reportArgumentType]


def _shape(match: Match) -> AttentionShape:
    return _sizes(match.shape(0), match.shape(1), match.shape(2))


def _sizes(query: Iterable[int], key: Iterable[int], value: Iterable[int]) -> AttentionShape:
    """Returns the sizes of q (B, H, M, D), kᵀ (B, H, D, N) and v (B, H, N, E)."""
    *batch, queries, head_dim = query
    return AttentionShape(math.prod(batch), 1, queries, list(key)[-1], head_dim, list(value)[-1])
