"""Streams: quantities of a network whose scale norms take out again, so that it may be chosen.

    GroupNorm(x; ε) = GroupNorm(2⁻ᵏ·x; 4⁻ᵏ·ε)

A stream is what layers write, sums add up and further layers copy on, until norms read it: the sum that runs through
all residual blocks is one, what lies between a block's first convolution and its second norm is another. Its values
become 2⁻ᵏ as large if everything that is written into it does. A power of two changes exponents alone, so the network
computes the same in float32, bit for bit, until a number falls below 2⁻¹²⁶.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

Calls = Iterable["tuple[Tensor, ...]"]


@dataclass(frozen=True)
class Streams:
    """The streams of a network, each named by the layer that begins it.

    Args:
        layers: of each convolution or linear layer that writes into a stream, by its path: the stream that it reads
            (None where norms stand before it) and the stream that it writes.
        norms: of each norm that reads a stream, by its path: that stream.
    """

    layers: Mapping[str, tuple[str | None, str]] = field(default_factory=dict)
    norms: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Every stream, in the order of the network."""
        return tuple(dict.fromkeys(writes for _, writes in self.layers.values()))


def rescale(module: nn.Module, streams: Streams, exponents: Mapping[str, int]) -> None:
    """Makes the values of streams 2⁻ᵏ as large, in place; the module computes what it did.

        W ← 2^(k of what it reads − k of what it writes)·W        b ← 2^(−k of what it writes)·b        ε ← 4⁻ᵏ·ε

    Args:
        module: the network.
        streams: of it.
        exponents: k by stream; 0 where none is given.
    """
    from torch import nn

    for path, (reads, writes) in streams.layers.items():
        layer: Any = module.get_submodule(path)
        written = exponents.get(writes, 0)
        read = 0 if reads is None else exponents.get(reads, 0)
        if read != written:
            layer.weight = nn.Parameter(layer.weight.detach() * 2.0 ** (read - written), requires_grad=False)
        if written and layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias.detach() * 2.0**-written, requires_grad=False)
    for path, stream in streams.norms.items():
        norm: Any = module.get_submodule(path)
        norm.eps *= 4.0 ** -exponents.get(stream, 0)


def observe(module: nn.Module, streams: Streams, calls: Calls) -> tuple[dict[str, float], list[Tensor]]:
    """Runs a network and returns the largest magnitude in each stream, infinite if not a number, and the outputs.

    Args:
        module: the network.
        streams: of it.
        calls: inputs of each call.
    """
    import torch

    largest = dict.fromkeys(streams.names, 0.0)

    def note(stream: str, value: Tensor) -> None:
        found = float(value.abs().max())
        largest[stream] = max(largest[stream], math.inf if math.isnan(found) else found)

    def written(stream: str) -> Any:
        return lambda _module, _inputs, output: note(stream, output)

    def read(stream: str) -> Any:
        return lambda _module, inputs: note(stream, inputs[0])

    hooks = []
    try:
        for path, (reads, writes) in streams.layers.items():
            layer = module.get_submodule(path)
            hooks.append(layer.register_forward_hook(written(writes)))
            if reads is not None:
                hooks.append(layer.register_forward_pre_hook(read(reads)))
        for path, stream in streams.norms.items():
            hooks.append(module.get_submodule(path).register_forward_pre_hook(read(stream)))
        with torch.no_grad():
            return largest, [module(*inputs) for inputs in calls]
    finally:
        for hook in hooks:
            hook.remove()
