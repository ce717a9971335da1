"""Attention that a program writes out, run as one operation of torch.

Before iOS 18, attention is matmul, softmax, matmul. Its scores are the largest tensor of a UNet (1 GB in float32 for
SD 1.5 at 512 pixels and batch 2), which torch's own kernel never holds at once. In float32 the result is the same up to
rounding; a mode that rounds after each operation needs the scores and fuses nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sdmobile.formats.mlprogram.types import NamedType
from sdmobile.runtimes.mlprogram.ops.registry import Op, Parameter
from sdmobile.runtimes.mlprogram.steps import Step


def attention(query: Tensor, key: Tensor, value: Tensor, key_is_transposed: bool, value_is_transposed: bool) -> Tensor:
    """softmax(query · keyᵀ) · value, with leading axes broadcast as matmul does."""
    key = key.transpose(-1, -2) if key_is_transposed else key
    value = value.transpose(-1, -2) if value_is_transposed else value
    batch = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    query, key, value = (x.expand(*batch, *x.shape[-2:]) for x in (query, key, value))
    if len(batch) < 2:  # torch's kernel wants two leading axes
        query, key, value = (x.reshape(1, -1, *x.shape[-2:]) for x in (query, key, value))
    result = F.scaled_dot_product_attention(query, key, value, scale=1.0)
    return result.reshape(*batch, *result.shape[-2:])


_ATTENTION = Op(
    attention, {name: Parameter("Tensor", False) for name in ("query", "key", "value")}, False, moves_data=False
)


def fuse_attention(steps: list[Step], outputs: tuple[NamedType, ...]) -> list[Step]:
    """Replaces matmul, softmax over the last axis, matmul by one step at the place of the last.

    Args:
        steps: all steps in order.
        outputs: of the program; a value among them is not fused away.
    """
    made = {step.operation.outputs[0].name: step for step in steps}
    uses = Counter(source for step in steps for s in step.sources.values() for source in s if isinstance(source, str))
    uses.update(output.name for output in outputs)
    fused: dict[str, Step] = {}
    gone: set[str] = set()
    for step in steps:
        pair = _match(step, made, uses)
        if pair is not None:
            softmax, scores = pair
            fused[step.operation.name] = _fused(step, scores)
            gone |= {softmax.operation.name, scores.operation.name}
    return [fused.get(step.operation.name, step) for step in steps if step.operation.name not in gone]


def _match(step: Step, made: dict[str, Step], uses: Counter[str]) -> tuple[Step, Step] | None:
    """Returns the softmax and the scores that a matrix product with values uses alone."""
    softmax = _only_source(step, "x", "matmul", "softmax", made, uses)
    if softmax is None or not _is_plain(step):
        return None
    rank = len(step.operation.outputs[0].type.shape)
    scores = _only_source(softmax, "x", "softmax", "matmul", made, uses)
    if scores is None or not 3 <= rank <= 4 or softmax.fixed.get("axis", -1) not in (-1, rank - 1):
        return None
    same_rank = len(scores.operation.outputs[0].type.shape) == rank
    return (softmax, scores) if same_rank and _is_plain(scores) else None


def _only_source(
    step: Step, name: str, type_: str, wanted: str, made: dict[str, Step], uses: Counter[str]
) -> Step | None:
    source = step.sources.get(name, (None,))[0]
    if step.operation.type != type_ or not isinstance(source, str) or uses[source] != 1 or source not in made:
        return None
    maker = made[source]
    return maker if maker.operation.type == wanted else None


def _is_plain(matmul: Step) -> bool:
    """Returns whether x is not transposed and both operands are computed."""
    flags = set(matmul.sources) == {"x", "y"} and not matmul.fixed.get("transpose_x", False)
    return flags and all(isinstance(sources[0], str) for sources in matmul.sources.values())


def _fused(values: Step, scores: Step) -> Step:
    sources = {"query": scores.sources["x"], "key": scores.sources["y"], "value": values.sources["y"]}
    fixed: dict[str, Any] = {
        "key_is_transposed": not scores.fixed.get("transpose_y", False),
        "value_is_transposed": bool(values.fixed.get("transpose_y", False)),
    }
    return Step(values.operation, _ATTENTION, values.context, fixed, sources)
