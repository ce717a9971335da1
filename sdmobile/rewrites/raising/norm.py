"""Raises normalisations written out in primitive operations, found by their root of a variance.

    y = (x − mean) / sqrt(var + ε) · γ + β

Both operators normalise rows of consecutive values: layer_norm the trailing axes, group_norm the channels of a group
with all positions. A site is evaluated in float64 on random operands and compared with this equation, so it does not
matter how mean, variance, root and affine step are spelled.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sdmobile.rewrites.operators import arguments, shape_of
from sdmobile.rewrites.pattern import between
from sdmobile.rewrites.raising.region import ARITHMETIC, REDUCTIONS, RESHAPES, ROOTS, Region, Search, plain
from sdmobile.rewrites.rule import Exactness, Match, Rule

if TYPE_CHECKING:
    from torch.fx import Graph, Node

_aten = torch.ops.aten
_STANDARD_DEVIATIONS = (_aten.std.dim, _aten.std.correction)
_INSTANCE_NORM = _aten.instance_norm.default
_MOVES = (_aten.permute.default, _aten.transpose.int, _aten.expand.default)
_ALLOWED = frozenset((*ARITHMETIC, *REDUCTIONS, *RESHAPES, *ROOTS, *_MOVES, _INSTANCE_NORM))
LAYER, GROUP = "layer_norm", "group_norm"
# Where torch.export decomposes, these are left, with their saved statistics.
_NATIVE = {
    GROUP: (_aten.native_group_norm.default, {"num_groups": "group"}),
    LAYER: (_aten.native_layer_norm.default, {"normalized_shape": "normalized_shape"}),
}
# float64 agrees to 1e-12; an unbiased variance of 40,960 values differs by 1e-5, the largest group of SD1.5.
_TOLERANCE = 1e-7
_LAST_ROOTS = 8
_REASON = "reason"
_UNBIASED = "the variance is unbiased (divided by n − 1); the operators divide by n"


@dataclass(frozen=True)
class _Form:
    """One way to read a site: which operator, on how many rows, with an affine step of which shape."""

    kind: str
    rows: int
    affine: tuple[int, ...]
    options: tuple[tuple[str, Any], ...]

    def normalise(self, x: Tensor, eps: float, correction: int = 0) -> Tensor:
        """Returns the rows of x with mean 0 and variance 1."""
        rows = x.reshape(self.rows, -1)
        variance = rows.var(1, correction=correction, keepdim=True)
        return ((rows - rows.mean(1, keepdim=True)) / (variance + eps).sqrt()).reshape(x.shape)


def norms(graph: Graph, kind: str) -> Iterator[Match]:
    """Yields what computes a layer_norm or group_norm, and what comes close with the reason why it is refused.

    Args:
        graph: where to look.
        kind: LAYER or GROUP.
    """
    anchors = [node for node in graph.nodes if _is_anchor(node)]
    if not anchors:
        return
    search = Search(graph, _ALLOWED)
    for anchor in anchors:
        site = _identify(search, anchor)
        if site is not None and site[0] == kind:
            yield site[1]


def refusal(match: Match) -> str | None:
    """Returns the reason that `norms` gave."""
    return match.options.get(_REASON)


def _is_anchor(node: Node) -> bool:
    """Returns whether the node is a square root, or an operator that contains one."""
    if node.op != "call_function":
        return False
    if node.target is _aten.pow.Tensor_Scalar:
        return node.args[1] in (0.5, -0.5)
    if node.target is _INSTANCE_NORM:
        return arguments(node)["use_input_stats"] is True
    return node.target in (*ROOTS, *_STANDARD_DEVIATIONS)


def _identify(search: Search, anchor: Node) -> tuple[str, Match] | None:
    """Returns the operator that a site computes, or nearly computes."""
    near: tuple[str, Match] | None = None
    for region in search.regions(anchor):
        roots = _roots(region, anchor)
        eps = _epsilon(region, anchor) if roots else None
        if eps is None:
            continue
        site = _Site(region, anchor, roots, eps)
        identified = site.match() or site.match(correction=1)
        if identified is not None:
            return identified
        near = near or site.near_miss()
    return near


def _roots(region: Region, anchor: Node) -> list[Node]:
    """Returns the nodes that may hold the result, the last first."""
    reduces = any(n.target in (*REDUCTIONS, _INSTANCE_NORM) for n in region.needed(anchor))
    x = region.start.meta["val"]
    if not reduces or not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2:
        return []
    if any(not isinstance(size, int) for size in x.shape):
        return []
    followers = region.followers(anchor)[0 if anchor.target is _INSTANCE_NORM else 1 :]
    return [n for n in followers if isinstance(n.meta["val"], Tensor) and n.meta["val"].shape == x.shape][
        -_LAST_ROOTS:
    ][::-1]


def _epsilon(region: Region, anchor: Node) -> float | None:
    """Returns what the root is taken of when x is constant: ε; None if that depends on the constant (no mean taken)."""
    if anchor.target is _INSTANCE_NORM:
        return float(arguments(anchor)["eps"])
    readings = []
    for constant in (0.5, 0.0):
        x = torch.full(shape_of(region.start), constant, dtype=torch.float64)
        values = region.evaluate({region.start: x, **_random_constants(region)})
        inside = values[anchor if anchor.target in _STANDARD_DEVIATIONS else anchor.all_input_nodes[0]]
        readings.append(float(inside.flatten()[0]))
    return readings[0] if math.isclose(readings[0], readings[1], rel_tol=1e-9, abs_tol=1e-15) else None


def _random_constants(region: Region) -> dict[Node, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        node: torch.randn(shape_of(node), generator=generator, dtype=torch.float64) + 1.5 for node in region.constants
    }


class _Site:
    """An anchor in a region, with its values on random operands."""

    def __init__(self, region: Region, anchor: Node, roots: list[Node], eps: float) -> None:
        self.region, self.anchor, self.roots, self.eps = region, anchor, roots, eps
        shape = shape_of(region.start)
        generator = torch.Generator().manual_seed(0)
        # A small variance, so that it matters where ε is added.
        self.x = torch.randn(shape, generator=generator, dtype=torch.float64) * 0.05 + 0.02
        self.values = region.evaluate({region.start: self.x, **_random_constants(region)})
        self.forms = list(_forms(shape, _statistics(anchor)))

    def match(self, correction: int = 0) -> tuple[str, Match] | None:
        """Returns the reading that agrees with the site's values, and the operator that it is."""
        if self.eps <= 0:
            return None
        normal = [form.normalise(self.x, self.eps, correction) for form in self.forms]
        for root in self.roots:
            for form, y in zip(self.forms, normal, strict=True):
                for weight, bias in _orders(self.region, root, form):
                    if self._agrees(root, y, weight, bias, form):
                        options = {_REASON: _UNBIASED} if correction else {**dict(form.options), "eps": self.eps}
                        return form.kind, self._matched(root, weight, bias, options)
        return None

    def _agrees(self, root: Node, normal: Tensor, weight: Node | None, bias: Node | None, form: _Form) -> bool:
        y = normal if weight is None else normal * self.values[weight].reshape(form.affine)
        y = y if bias is None else y + self.values[bias].reshape(form.affine)
        scale = float(y.abs().max())
        return bool((self.values[root] - y).abs().max() <= _TOLERANCE * scale)

    def _matched(self, root: Node, weight: Node | None, bias: Node | None, options: dict[str, Any]) -> Match:
        x, operands = self.region.start, [None if n is None else plain(n) for n in (weight, bias)]
        covers = between(root, [x, *(n for n in operands if n is not None)])
        return Match(root, (x, *operands), options, covers)

    def near_miss(self) -> tuple[str, Match]:
        """Returns the site with the reason why it is neither operator."""
        kind = LAYER if any(form.kind == LAYER and len(form.affine) == 1 for form in self.forms) else GROUP
        reason = f"ε is not added to the variance inside the root, which is of {self.eps:g} for a constant input"
        if self.eps > 0:
            reason = (
                "it differs from layer_norm and group_norm on random operands: other axes or another equation "
                f"(statistics of shape {list(_statistics(self.anchor))} for an input of {list(self.x.shape)})"
            )
        root = self.roots[-1]
        return kind, Match(root, (self.region.start, None, None), {_REASON: reason}, (root,))


def _statistics(anchor: Node) -> tuple[int, ...]:
    """Returns the shape of the variance, (N, C) of an instance norm."""
    return shape_of(anchor.args[0])[:2] if anchor.target is _INSTANCE_NORM else shape_of(anchor)  # type: ignore[arg-type]


def _forms(shape: tuple[int, ...], statistics: tuple[int, ...]) -> Iterator[_Form]:
    """Yields the readings that give as many variances, the usual ones first."""
    rows = math.prod(statistics)
    layers = [
        _Form(LAYER, rows, shape[-k:], (("normalized_shape", list(shape[-k:])),))
        for k in range(1, len(shape))
        if statistics in (shape[:-k], shape[:-k] + (1,) * k)
    ]
    yield from (form for form in layers if len(form.affine) == 1)
    groups, rest = divmod(rows, shape[0])
    if rest == 0 and shape[1] % groups == 0 and len(shape) >= 3:
        yield _Form(GROUP, rows, (1, shape[1]) + (1,) * (len(shape) - 2), (("num_groups", groups),))
    yield from (form for form in layers if len(form.affine) > 1)


def _orders(region: Region, root: Node, form: _Form) -> Iterator[tuple[Node | None, Node | None]]:
    """Yields the ways in which the constants that a root needs may be γ and β."""
    needed = region.needed(root)
    constants = [n for n in region.constants if n in needed]
    if len(constants) > 2 or any(n.meta["val"].numel() != math.prod(form.affine) for n in constants):
        return
    yield from permutations((*constants, *[None] * (2 - len(constants))), 2)


def native_norms(graph: Graph, kind: str) -> Iterator[Match]:
    """Yields the first results of `aten.native_group_norm` or `aten.native_layer_norm`: the normalised values.

    Args:
        graph: where to look.
        kind: "group_norm" or "layer_norm".
    """
    target, renamed = _NATIVE[kind]
    for node in graph.find_nodes(op="call_function", target=target):
        values = arguments(node)
        options = {ours: values[theirs] for ours, theirs in renamed.items()}
        for user in node.users:
            if user.target is operator.getitem and user.args[1] == 0:
                tensors = (values["input"], values["weight"], values["bias"])
                yield Match(user, tensors, {**options, "eps": values["eps"]}, (user, node))


class RaiseGroupNorm(Rule):
    """Writes `aten.group_norm` for what computes it: groups by reshape, mean, variance, root, affine step.

    It does so for `aten.native_group_norm` too, which is left where torch.export decomposes, and for an instance norm
    of a reshaped input. The picture is one spelling of many.

    Captured:
        g = reshape(x)                                                  (N, G, C/G·H·W)
        d = sub(g, mean(g, 2))                                          (N, G, C/G·H·W)
        r = rsqrt(add(mean(mul(d, d), 2), ε))                           (N, G, 1)
        y = add(mul(reshape(mul(d, r)), reshape(γ)), reshape(β))        (N, C, H, W)

    Rewritten:
        y = group_norm(x, G, γ, β, ε)                                   (N, C, H, W)
    """

    name = "raise_group_norm"
    title = "GroupNorm written out in primitive operations becomes one operator"
    source = "Wu and He 2018, section 3.1; each site is compared with it in float64 on random operands"
    exactness = Exactness.UP_TO_ROUNDING
    bound_db = 100.0

    def matches(self, graph: Graph) -> Iterable[Match]:
        return [*native_norms(graph, GROUP), *norms(graph, GROUP)]

    def check(self, match: Match) -> str | None:
        return refusal(match)

    def replacement(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, *, num_groups: int, eps: float
    ) -> Tensor:
        gamma, beta = (p if p is None or p.ndim == 1 else p.reshape(-1) for p in (weight, bias))
        return torch.group_norm(x, num_groups, gamma, beta, eps)


class RaiseLayerNorm(Rule):
    """Writes `aten.layer_norm` for what computes it, and for the `aten.native_layer_norm` of a decomposition.

    The picture is one spelling of many.

    Captured:
        d = sub(x, mean(x, -1))                                         (N, S, C)
        r = rsqrt(add(mean(mul(d, d), -1), ε))                          (N, S, 1)
        y = add(mul(mul(d, r), γ), β)                                   (N, S, C)

    Rewritten:
        y = layer_norm(x, [C], γ, β, ε)                                 (N, S, C)
    """

    name = "raise_layer_norm"
    title = "LayerNorm written out in primitive operations becomes one operator"
    source = "Ba, Kiros and Hinton 2016, section 3.1; each site is compared with it in float64 on random operands"
    exactness = Exactness.UP_TO_ROUNDING
    bound_db = 100.0

    def matches(self, graph: Graph) -> Iterable[Match]:
        return [*native_norms(graph, LAYER), *norms(graph, LAYER)]

    def check(self, match: Match) -> str | None:
        return refusal(match)

    def replacement(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, *, normalized_shape: list[int], eps: float
    ) -> Tensor:
        shape = tuple(normalized_shape)
        gamma, beta = (p if p is None or p.shape == shape else p.reshape(shape) for p in (weight, bias))
        return torch.layer_norm(x, shape, gamma, beta, eps)
