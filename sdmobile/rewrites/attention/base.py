"""What the forms of attention share: the sizes of a match, why a form may not be used, what a report says.

out = softmax(scale · q kᵀ + mask) v        q (B, H, M, D), k (B, H, N, D), v (B, H, N, E)
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import Graph, Node

from sdmobile.device_profiles.runtime_rules.attention_forms import AttentionRow, AttentionShape, Choice, choose
from sdmobile.device_profiles.runtime_rules.attention_kernels import KernelRules, predicted_kernel
from sdmobile.rewrites.attention.arithmetic import added_mask, default_scale
from sdmobile.rewrites.operators import arguments, shape_of
from sdmobile.rewrites.rule import Exactness, Match, OperatorRule, operator_match

SDPA = torch.ops.aten.scaled_dot_product_attention.default


@dataclass(frozen=True)
class AttentionTable:
    """What a device says about attention.

    Args:
        rows: forms and their conditions, in order of preference.
        budget_bytes: largest tensor that the device takes; None if there is no such limit.
        element_bytes: size of a score on the device.
        kernels: rules by which its runtime chooses a kernel; None if they are not known.
    """

    rows: tuple[AttentionRow, ...]
    budget_bytes: int | None = None
    element_bytes: int = 2
    kernels: KernelRules | None = None

    def choose(self, shape: AttentionShape) -> Choice:
        """Returns the form of an attention, and why."""
        return choose(shape, self.rows, self.budget_bytes, self.element_bytes)


@dataclass(frozen=True)
class AttentionForm(OperatorRule):
    """A form of `aten.scaled_dot_product_attention`.

    Args:
        table: which attentions take this form; None for all of them.
    """

    form: ClassVar[str]
    operator: ClassVar = SDPA
    exactness = Exactness.UP_TO_ROUNDING
    bound_db = 100.0

    table: AttentionTable | None = field(default=None, kw_only=True)

    def matches(self, graph: Graph) -> Iterable[Match]:
        nodes = graph.find_nodes(op="call_function", target=SDPA)
        return [self.match(node) for node in nodes if self._chosen(node)]

    def match(self, node: Node) -> Match:
        """Returns the match of one attention."""
        return operator_match(node)

    def _chosen(self, node: Node) -> bool:
        """Returns whether the device's table gives the attention this form."""
        return self.table is None or self.table.choose(attention_shape(node)).form == self.form

    def check(self, match: Match) -> str | None:
        return unsupported(attention_of(match))

    def written_scores(self, shape: AttentionShape, element_bytes: int) -> int:
        """Returns the bytes of the largest score tensor that this form writes, 0 if none is a tensor of the graph."""
        return shape.score_bytes(element_bytes)

    def details(self, match: Match) -> dict[str, Any]:
        shape = attention_shape(attention_of(match))
        table = self.table or AttentionTable(())
        kernels = table.kernels
        return {
            "form": self.form,
            "why": table.choose(shape).why if self.table else "the form was asked for",
            "shape": shape.to_json(),
            "score_bytes_before": shape.score_bytes(table.element_bytes),
            "score_bytes_after": self.written_scores(shape, table.element_bytes),
            "runtime_kernel": kernels and predicted_kernel(self.form, shape, kernels).model_dump(),
        }


@dataclass(frozen=True)
class Operands:
    """What one attention is computed from.

    Args:
        query: q, (..., M, D).
        key, value: k and v, (..., N, D) and (..., N, E).
        mask: added to the scores, or boolean and true where a key takes part; None for no mask.
        is_causal: whether keys after the query's own position take no part.
        scale: factor of the scores.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    is_causal: bool
    scale: float

    def added_mask(self) -> Tensor | None:
        """Returns what is added to the scores, (..., M, N); None for nothing."""
        return added_mask(self.mask, self.is_causal, self.query.shape[-2], self.key.shape[-2], self.query.dtype)

    def scaled_query(self) -> Tensor:
        """Returns scale · q."""
        return self.query * self.scale


class AttentionOperatorForm(AttentionForm):
    """A form that stands for the operator alone, without the projections around it."""

    @abstractmethod
    def attend(self, attention: Operands) -> Tensor:
        """Returns the attention, (..., M, E), computed the form's way."""

    def replacement(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None,
        *,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Returns the attention; `check` has refused dropout and grouped heads."""
        return self.attend(Operands(query, key, value, attn_mask, is_causal, default_scale(query, scale)))


def attention_of(match: Match) -> Node:
    """Returns the attention node of a match, which may cover more than it."""
    return next(node for node in match.covers if node.target is SDPA)


def attention_shape(node: Node) -> AttentionShape:
    """Returns the sizes of an attention node."""
    operands = arguments(node)
    query, key, value = (shape_of(operands[name]) for name in ("query", "key", "value"))
    *lead, queries, head_dim = query
    heads = lead.pop() if len(lead) > 1 else 1
    masked = operands["attn_mask"] is not None or bool(operands["is_causal"])
    return AttentionShape(math.prod(lead), heads, queries, key[-2], head_dim, value[-1], masked)


def unsupported(node: Node) -> str | None:
    """Returns why no form of this project can stand for an attention node, or None if one can."""
    operands = arguments(node)
    query, key, value = (shape_of(operands[name]) for name in ("query", "key", "value"))
    if any(not isinstance(size, int) for size in (*query, *key, *value)):
        return f"the shapes {query}, {key}, {value} are not static"
    if not 3 <= len(query) <= 4:
        return f"the query has rank {len(query)}; the forms are for rank 3 to 4"
    if operands["dropout_p"]:
        return f"dropout_p is {operands['dropout_p']}; the forms are for inference"
    if operands["enable_gqa"]:
        return f"enable_gqa is set ({query[-3]} query heads, {key[-3]} key heads); repeat key and value heads first"
    if not query[:-2] == key[:-2] == value[:-2]:
        return f"query {query}, key {key} and value {value} are broadcast"
    if operands["attn_mask"] is not None and operands["is_causal"]:
        return "it has a mask and is causal at once"
    return None
