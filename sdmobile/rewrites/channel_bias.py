"""A vector of channels that a linear layer makes and an image gets added: the timestep in a residual block.

    captured:  x + (W e + b) as (N, C, 1, 1)        rewritten: x + conv(e as an image of one pixel; W, b)

LiteRT images are (N, H, W, C). The captured addend is (N, C, 1, 1), for which the converter transposes the image there
and back; and it takes a reshape in every block, where all blocks can share one reshape of e.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.nn import functional as F

from sdmobile.rewrites.operators import arguments, shape_of
from sdmobile.rewrites.rule import Exactness, Match, Rule

_aten = torch.ops.aten
_SHAPES = (_aten.unsqueeze.default, _aten.reshape.default, _aten.view.default)


class ChannelBias(Rule):
    """Matches the sum of an image and a linear layer's output that was reshaped to (N, C, 1, 1).

    Captured:
        v = unsqueeze(unsqueeze(linear(e, W, b), 2), 3)                 (N, C, 1, 1)
        y = add(x, v)                                                   (N, C, H, W)

    Rewritten:
        p = conv2d(reshape(e), reshape(W), b)                           (N, C, 1, 1), of (N, D, 1, 1) and (C, D, 1, 1)
        s = add(permute(x), permute(p))                                 (N, H, W, C), of (N, H, W, C) and (N, 1, 1, C)
        y = permute(s)                                                  (N, C, H, W)
    """

    name: ClassVar[str] = "channel_bias"
    title: ClassVar[str] = "Timestep added to an image channels last, without transposes"
    source: ClassVar[str] = "own count of LiteRT operators: two transposes and a reshape less per residual block"
    exactness: ClassVar[Exactness] = Exactness.UP_TO_ROUNDING
    bound_db: ClassVar[float] = 120.0

    def matches(self, graph: Graph) -> Iterable[Match]:
        for node in graph.find_nodes(op="call_function", target=_aten.add.Tensor):
            image, addend = node.args[0], node.args[1]
            if arguments(node)["alpha"] != 1 or not isinstance(image, Node) or not isinstance(addend, Node):
                continue
            for x, vector in ((image, addend), (addend, image)):
                match = _match(node, x, vector)
                if match is not None:
                    yield match
                    break

    def check(self, match: Match) -> str | None:
        shape = match.shape()
        return None if all(isinstance(n, int) for n in shape) else f"the shape {shape} is not static"

    def replacement(self, image: Tensor, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return add_linear(image, features, weight, bias)


def add_linear(image: Tensor, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Returns image + linear(features), the same for all positions.

    Args:
        image: x, (N, C, H, W).
        features: e, (N, D) or (1, D).
        weight, bias: W (C, D) and b (C,) or None.
    """
    pixel = features.reshape(features.shape[0], -1, 1, 1)
    vector = F.conv2d(pixel, weight.reshape(*weight.shape, 1, 1), bias)
    return (image.permute(0, 2, 3, 1) + vector.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _match(root: Node, image: Node, vector: Node) -> Match | None:
    """Returns the match if `vector` is a reshaped linear layer of one row per image."""
    if len(shape_of(image)) != 4 or len(shape_of(vector)) != 4 or shape_of(vector)[2:] != (1, 1):
        return None
    if shape_of(image) == shape_of(vector) or shape_of(image)[1] != shape_of(vector)[1]:
        return None
    covered = [root]
    node = vector
    while node.target in _SHAPES and len(node.users) == 1:
        covered.append(node)
        node = node.all_input_nodes[0]
    if node.target is not _aten.linear.default or len(node.users) != 1:
        return None
    operands = arguments(node)
    features = operands["input"]
    if len(shape_of(features)) != 2 or shape_of(node) != shape_of(vector)[:2]:
        return None
    return Match(root, (image, features, operands["weight"], operands["bias"]), {}, (*covered, node))
