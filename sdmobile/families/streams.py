"""Streams: quantities of a network whose scale norms take out again, so that it may be chosen.

    GroupNorm(x; ε) = GroupNorm(2⁻ᵏ·x; 4⁻ᵏ·ε)

A stream is what layers write, sums add up and further layers copy on, until norms read it: the sum that runs through
all residual blocks is one, what lies between a block's first convolution and its second norm is another. Its values
become 2⁻ᵏ as large if everything that is written into it does. A power of two changes exponents alone, so the network
computes the same in float32, bit for bit, until a number falls below 2⁻¹²⁶.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    Observed = tuple[dict[str, float], NDArray[np.float32]]

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


@dataclass(frozen=True)
class ArrayNetwork:
    """A component that can be observed without PyTorch, on NumPy arrays.

    Args:
        streams: of it.
        weights: names of the weights that it reads, in its model.
        observe: from those weights in float32 and a canonical input, (N, …): the largest magnitude in each stream over
            all N, as `observe` returns it, and the output.
    """

    streams: Streams
    weights: tuple[str, ...]
    observe: Callable[[Mapping[str, NDArray[np.float32]], NDArray[np.float32]], Observed]


def weight_factors(streams: Streams, exponents: Mapping[str, int]) -> dict[str, float]:
    """Returns what scaled streams multiply weights by, by the weight's name; those that stay are left out.

        W ← 2^(k of what it reads − k of what it writes)·W        b ← 2^(−k of what it writes)·b

    Args:
        streams: of the network.
        exponents: k by stream; 0 where none is given.
    """
    factors: dict[str, float] = {}
    for path, (reads, writes) in streams.layers.items():
        written = exponents.get(writes, 0)
        read = 0 if reads is None else exponents.get(reads, 0)
        factors |= {f"{path}.weight": 2.0 ** (read - written), f"{path}.bias": 2.0**-written}
    return {name: factor for name, factor in factors.items() if factor != 1.0}


def epsilon_factors(streams: Streams, exponents: Mapping[str, int]) -> dict[str, float]:
    """Returns what scaled streams multiply the epsilons of norms by, 4⁻ᵏ, by the norm's path; see `weight_factors`."""
    factors = {path: 4.0 ** -exponents.get(stream, 0) for path, stream in streams.norms.items()}
    return {path: factor for path, factor in factors.items() if factor != 1.0}


def rescaled(name: str, array: NDArray[Any], factors: Mapping[str, float]) -> NDArray[Any]:
    """Returns a weight in float32 as `rescale` makes it, bit for bit; the array itself where it stays.

    Args:
        name: of the weight.
        array: its values in the checkpoint.
        factors: from `weight_factors`.
    """
    return array if name not in factors else array * array.dtype.type(factors[name])


def rescale(module: nn.Module, streams: Streams, exponents: Mapping[str, int]) -> None:
    """Makes the values of streams 2⁻ᵏ as large, in place; the module computes what it did.

        ε ← 4⁻ᵏ·ε, and weights by `weight_factors`

    Args:
        module: the network.
        streams: of it.
        exponents: k by stream; 0 where none is given.
    """
    from torch import nn

    held = dict(module.named_parameters())
    for name, factor in weight_factors(streams, exponents).items():
        path, _, kind = name.rpartition(".")
        if name in held:  # else a layer without a bias
            scaled = nn.Parameter(held[name].detach() * factor, requires_grad=False)
            setattr(module.get_submodule(path), kind, scaled)
    for path, factor in epsilon_factors(streams, exponents).items():
        norm: Any = module.get_submodule(path)
        norm.eps *= factor


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
