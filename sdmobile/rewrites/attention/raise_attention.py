"""Attention that is written out becomes one operator, so that all other rules of attention know it.

    matmul(softmax(scale · matmul(q, kᵀ) + mask), v)  ──▶  scaled_dot_product_attention(q, k, v, mask, scale)

Vaswani et al., "Attention Is All You Need", 2017, section 3.2.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph
from torch.nn import functional as F

from sdmobile.rewrites.attention.written_out import MaskKind, Unreadable, WrittenAttention, candidates, read
from sdmobile.rewrites.pattern import between
from sdmobile.rewrites.rule import Exactness, Match, Rule


class RaiseAttention(Rule):
    """Writes the operator for every attention that is written out in products and a softmax.

    It knows Diffusers' classic processors, CompVis-style code, OpenAI's einsum form and Transformers' eager attention.
    Scales may stand on query, key or product; a mask may be added, filled in or selected; keys and results may be
    transposed; batch and heads may be merged. A mask that is filled in with −10⁴ or less counts as −∞. The picture is
    one spelling of many.

    Captured:
        s = div(matmul(q, transpose(k, -1, -2)), √D)                    (B, H, M, N)
        y = matmul(softmax(s, -1), v)                                   (B, H, M, E)

    Rewritten:
        y = scaled_dot_product_attention(q, k, v, scale=1/√D)           (B, H, M, E)
    """

    name = "raise_attention"
    title = "Attention written out as products and a softmax, as one operator"
    source = "Vaswani et al. 2017, section 3.2.1; the forms that Diffusers, Transformers and CompVis's code export to"
    exactness = Exactness.UP_TO_ROUNDING
    bound_db = 100.0

    def matches(self, graph: Graph) -> Iterable[Match]:
        sites = []
        for root, last, softmax in candidates(graph):
            try:
                sites.append(_match(read(root, last, softmax)))
            except Unreadable as why:
                sites.append(Match(root, (), {"reason": str(why)}, ()))
        return sites

    def check(self, match: Match) -> str | None:
        return match.options.get("reason")

    def replacement(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        *,
        operand_axes: tuple[tuple[int, ...], ...],
        batch: tuple[int, ...],
        scale: float,
        mask_kind: MaskKind | None,
        mask_factor: float,
        mask_rank: int,
        mask_axes: tuple[int, ...],
        axes: tuple[int, ...],
    ) -> Tensor:
        q, k, v = (_arranged(x, order, batch) for x, order in zip((query, key, value), operand_axes, strict=True))
        if mask is not None:
            mask = _arranged_mask(_as_taken(mask, mask_kind, mask_factor, q.dtype), mask_axes)
            if mask.ndim == mask_rank == 3 and len(batch) == 2 and mask.shape[0] > 1:
                mask = mask.reshape(*batch, *mask.shape[-2:])
        y = F.scaled_dot_product_attention(q, k, v, mask, scale=scale)
        y = y.flatten(0, 1) if len(axes) < y.ndim else y
        return y if axes == tuple(range(y.ndim)) else y.permute(axes)

    def details(self, match: Match) -> dict[str, Any]:
        kind: MaskKind | None = match.options["mask_kind"]
        return {"scale": match.options["scale"], "mask": kind and kind.value}


def _match(written: WrittenAttention) -> Match:
    operands = (written.query, written.key, written.value)
    mask = written.mask
    tensors = (*(o.node for o in operands), None if mask is None else mask.node)
    options = {
        "operand_axes": tuple(o.axes for o in operands),
        "batch": written.batch,
        "scale": written.scale,
        "mask_kind": None if mask is None else mask.kind,
        "mask_factor": 1.0 if mask is None else mask.factor,
        "mask_rank": 0 if mask is None else len(mask.shape),
        "mask_axes": written.mask_axes,
        "axes": written.axes,
    }
    return Match(written.root, tensors, options, between(written.root, (t for t in tensors if t is not None)))


def _arranged(x: Tensor, axes: tuple[int, ...], batch: tuple[int, ...]) -> Tensor:
    """Returns an operand with its axes in canonical order and the leading ones of shape `batch`."""
    x = x if axes == tuple(range(x.ndim)) else x.permute(axes)
    return x if tuple(x.shape[:-2]) == batch else x.reshape(*batch, *x.shape[-2:])


def _as_taken(mask: Tensor, kind: MaskKind | None, factor: float, dtype: torch.dtype) -> Tensor:
    """Returns a mask as the operator takes it: added, or true where a key takes part."""
    if kind == MaskKind.DROPPED:
        return mask.logical_not()
    if kind != MaskKind.ADDED:
        return mask
    return (mask if factor == 1.0 else mask * factor).to(dtype)


def _arranged_mask(mask: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Returns a mask with its axes in the order (..., M, N)."""
    if axes == tuple(range(len(axes))):
        return mask
    return mask.reshape(*(1,) * (len(axes) - mask.ndim), *mask.shape).permute(axes)
