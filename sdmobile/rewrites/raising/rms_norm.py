"""Raises norms by the root of the mean square, written out in primitive operations.

    y = x · rsqrt(mean(x²) + ε) · γ

A site is found by its root, evaluated in float64 on random operands and compared with the equation, as other norms are.
What the normalised values are multiplied by is γ if it is made of weights alone: w of Diffusers, T5 and Qwen, 1 + w of
Gemma.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sdmobile.rewrites.operators import ancestors, shape_of
from sdmobile.rewrites.pattern import between
from sdmobile.rewrites.raising.region import ARITHMETIC, REDUCTIONS, RESHAPES, ROOTS, Region, Search
from sdmobile.rewrites.rule import Exactness, Match, Rule

if TYPE_CHECKING:
    from torch.fx import Graph, Node

_aten = torch.ops.aten
_ALLOWED = frozenset((*ARITHMETIC, *REDUCTIONS, *RESHAPES, *ROOTS))
_HALF_POWERS = (0.5, -0.5)
_TOLERANCE = 1e-9
_NEAREST = 8  # regions: an equation of x alone is found in a narrow one
_REASON = "reason"


class RaiseRmsNorm(Rule):
    """Writes `aten.rms_norm` for what computes it over the last axis.

    The picture is one spelling of many.

    Captured:
        r = rsqrt(add(mean(pow(x, 2), -1), ε))                          (N, S, 1)
        y = mul(mul(x, r), γ)                                           (N, S, C)

    Rewritten:
        y = rms_norm(x, [C], γ, ε)                                      (N, S, C)
    """

    name = "raise_rms_norm"
    title = "RMSNorm written out in primitive operations becomes one operator"
    source = "Zhang and Sennrich 2019, equation 4; each site is compared with it in float64 on random operands"
    exactness = Exactness.UP_TO_ROUNDING
    bound_db = 100.0

    def matches(self, graph: Graph) -> Iterable[Match]:
        anchors = [node for node in graph.nodes if _is_root(node)]
        search = Search(graph, _ALLOWED) if anchors else None
        for anchor in anchors:
            assert search is not None
            match = _identify(search, anchor)
            if match is not None:
                yield match

    def check(self, match: Match) -> str | None:
        return match.options.get(_REASON)

    def replacement(self, x: Tensor, weight: Tensor | None, *, eps: float) -> Tensor:
        return torch.rms_norm(x, (x.shape[-1],), weight, eps)


def _is_root(node: Node) -> bool:
    if node.op != "call_function":
        return False
    return node.target in ROOTS or (node.target is _aten.pow.Tensor_Scalar and node.args[1] in _HALF_POWERS)


def _identify(search: Search, anchor: Node) -> Match | None:
    """Returns the norm around a root, with the reason where it is one over other axes."""
    for region in search.regions(anchor)[: -_NEAREST - 1 : -1]:
        site = _site(region, anchor)
        if site is not None:
            return site.match()
    return None


@dataclass(frozen=True)
class _Site:
    """Normalised values.

    Args:
        x, root: what is normalised, and the node that has it.
        axes: of the mean.
        eps: ε.
    """

    x: Node
    root: Node
    axes: tuple[int, ...]
    eps: float

    def match(self) -> Match:
        """Returns the norm with what it is multiplied by."""
        x, root = self.x, self.root
        if self.axes != (len(shape_of(x)) - 1,):
            reason = f"it normalises over the axes {list(self.axes)} of {list(shape_of(x))}; the operator over the last"
            return Match(root, (x, None), {_REASON: reason}, (root,))
        scaled = _scaled(root, shape_of(x)[-1:])
        root, weight = (root, None) if scaled is None else scaled
        inputs = [x] if weight is None else [x, weight]
        return Match(root, (x, weight), {"eps": self.eps}, between(root, inputs))


def _site(region: Region, anchor: Node) -> _Site | None:
    """Returns the normalised values around a root, None if it is of something else."""
    x = region.start
    value = x.meta["val"]
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim < 2:
        return None
    if any(not isinstance(size, int) for size in value.shape):
        return None
    axes = _axes(shape_of(x), shape_of(anchor))
    roots = [node for node in region.followers(anchor)[1:] if _has_shape(node, shape_of(x))]
    if not axes or not roots or not any(node.target in REDUCTIONS for node in region.needed(anchor)):
        return None
    eps = _epsilon(region, anchor)
    if eps is None:
        return None
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(shape_of(x), generator=generator, dtype=torch.float64) * 0.05 + 0.02  # ε matters
    expected = sample * torch.rsqrt((sample * sample).mean(axes, keepdim=True) + eps)
    for root in roots[::-1]:
        if _agrees(region, root, sample, expected):
            return _Site(x, root, axes, eps)
    return None


def _has_shape(node: Node, shape: tuple[int, ...]) -> bool:
    return isinstance(node.meta["val"], Tensor) and shape_of(node) == shape


def _axes(shape: tuple[int, ...], statistics: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the axes that were reduced, kept with length 1 or not; nothing if the shapes say no such thing."""
    if statistics == shape[:-1]:
        return (len(shape) - 1,)
    if len(statistics) != len(shape) or any(s not in (1, n) for s, n in zip(statistics, shape, strict=True)):
        return ()
    return tuple(i for i, (s, n) in enumerate(zip(statistics, shape, strict=True)) if s != n)


def _epsilon(region: Region, anchor: Node) -> float | None:
    """Returns what the root is taken of where x is 0: ε, None if it is not one number above 0."""
    zeros = {region.start: torch.zeros(shape_of(region.start), dtype=torch.float64)}
    if region.constants and any(node in region.constants for node in region.needed(anchor)):
        return None
    values = _needed(region, anchor).evaluate(zeros)
    inside = values[anchor.all_input_nodes[0]].flatten()
    return float(inside[0]) if inside[0] > 0 and bool((inside == inside[0]).all()) else None


def _agrees(region: Region, root: Node, sample: Tensor, expected: Tensor) -> bool:
    if any(node in region.constants for node in region.needed(root)):
        return False
    value = _needed(region, root).evaluate({region.start: sample})[root]
    return bool((value - expected).abs().max() <= _TOLERANCE * expected.abs().max())


def _needed(region: Region, root: Node) -> Region:
    """Returns the part of a region that the value of `root` depends on."""
    needed = region.needed(root)
    return replace(region, nodes=tuple(node for node in region.nodes if node in needed))


def _scaled(root: Node, shape: tuple[int, ...]) -> tuple[Node, Node] | None:
    """Returns the product of normalised values with a vector of weights, and that vector."""
    users = list(root.users)
    if len(users) != 1 or users[0].target is not _aten.mul.Tensor:
        return None
    others: list[Any] = [operand for operand in users[0].args if operand is not root]
    if len(others) != 1 or not isinstance(others[0], torch.fx.Node) or shape_of(others[0]) != shape:
        return None
    made_of = [node for node in ancestors(others) if node.op == "placeholder"]
    of_weights = bool(made_of) and all(shape_of(node) == shape for node in made_of)
    return (users[0], others[0]) if of_weights else None
