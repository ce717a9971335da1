"""Repetition of channels and of heads without an operator that repeats, and with four axes.

Google's GPU engine has none; converters write it as BROADCAST_TO with five axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from sdmobile.rewrites.attention.shared_operands import grouped_source
from sdmobile.rewrites.operators import arguments, shape_of
from sdmobile.rewrites.pattern import between
from sdmobile.rewrites.rule import Exactness, Match, Rule

if TYPE_CHECKING:
    from torch.fx import Graph

_aten = torch.ops.aten
_REPEAT = _aten.repeat_interleave.self_int


class RepeatChannels(Rule):
    """Repeats each channel of an image by a 1×1 convolution with weights of 1 and 0.

    Captured:
        y = repeat_interleave(x, R, 1)                                  (N, R·C, H, W)

    Rewritten:
        y = conv2d(x, E)                                                (N, R·C, H, W), of E (R·C, C, 1, 1)
    """

    name = "repeat_channels"
    title = "Repeated channels of an image as a 1×1 convolution"
    source = "own lint of DC-AE: BROADCAST_TO and RESHAPE of five axes are refused"
    exactness = Exactness.EXACT  # sums of one value and zeros
    bound_db = math.inf

    def matches(self, graph: Graph) -> Iterable[Match]:
        for node in graph.find_nodes(op="call_function", target=_REPEAT):
            values = arguments(node)
            image = values["self"]
            if len(shape_of(image)) == 4 and values["dim"] in (1, -3) and image.meta["val"].is_floating_point():
                yield Match(node, (image,), {"repeats": values["repeats"]}, (node,))

    def replacement(self, x: Tensor, *, repeats: int) -> Tensor:
        channels = x.shape[1]
        kernels = [[[[float(i == j // repeats)]] for i in range(channels)] for j in range(channels * repeats)]
        return conv2d(x, torch.tensor(kernels, dtype=x.dtype))


class RepeatHeads(Rule):
    """Repeats heads that are repeated by an axis of their own, where attention stays written out.

    Captured:
        y = reshape(expand(unsqueeze(x, 2)))                            (B, H, N, D), of (B, G, N, D)

    Rewritten:
        y = cat([slice(x, 1, 0, 1), …, slice(x, 1, G-1, G), …], 1)      (B, H, N, D), of (B, 1, N, D) each
    """

    name = "repeat_heads"
    title = "Repeated heads as a concatenation of slices"
    source = "own lint of Gemma 2: BROADCAST_TO and RESHAPE of five axes are refused"
    exactness = Exactness.EXACT
    bound_db = math.inf

    def matches(self, graph: Graph) -> Iterable[Match]:
        for node in graph.nodes:
            source = grouped_source(node) if node.op == "call_function" else None
            if source is not None and len(shape_of(source)) == 4:
                yield Match(node, (source,), {"heads": shape_of(node)[1]}, between(node, [source]))

    def replacement(self, x: Tensor, *, heads: int) -> Tensor:
        groups = x.shape[1]
        return torch.cat([x[:, i : i + 1] for i in range(groups) for _ in range(heads // groups)], 1)
