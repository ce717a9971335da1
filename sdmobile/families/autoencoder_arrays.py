"""The halves of the KL autoencoder on NumPy arrays, as far as their streams have to be known without PyTorch.

Rombach et al., arXiv 2112.10752, as Diffusers builds it: GroupNorm with ε = 10⁻⁶, SiLU, one head of attention.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.errors import UnsupportedError
from sdmobile.families.array_layers import (
    attention,
    convolve,
    doubled,
    largest_magnitude,
    linear,
    normaliser,
)
from sdmobile.families.autoencoder_steps import Step, steps_of
from sdmobile.families.autoencoder_streams import streams_along
from sdmobile.families.streams import ArrayNetwork

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.families.array_layers import Array, Before
    from sdmobile.families.streams import Observed, Streams

_EPSILON = 1e-6
_OUTSIDE = {"encoder": "quant_conv", "decoder": "post_quant_conv"}
_SILU = (None, "silu", "swish")


def array_network(half: str, config: Mapping[str, Any], names: Collection[str]) -> ArrayNetwork | None:
    """Returns one half of an autoencoder; None where its weights or its configuration are another network's.

    Args:
        half: "encoder" or "decoder".
        config: of the autoencoder.
        names: of its weights.

    Raises:
        UnsupportedError: the configuration does not say into how many groups its norms divide channels.
    """
    steps = steps_of(half, names)
    if not steps or config.get("act_fn") not in _SILU:
        return None
    streams, outside = streams_along(steps), _OUTSIDE[half]
    groups = config.get("norm_num_groups", 32)
    if type(groups) is not int or groups < 1:
        raise UnsupportedError("norm_num_groups of an autoencoder must be a whole number above zero", groups)

    def observe(weights: Mapping[str, Array], pictures: Array) -> Observed:
        run = _Run(weights, groups, streams)
        x = np.ascontiguousarray(pictures.transpose(0, 2, 3, 1))
        with np.errstate(over="ignore", invalid="ignore"):  # a network that overflows float32 has infinite streams
            if half == "decoder":
                x = run.outside(outside, x)
            for step in steps:
                x = run.step(step, x)
            if half == "encoder":
                x = run.outside(outside, x)
        return run.largest, x.transpose(0, 3, 1, 2)

    read = tuple(name for name in names if name.startswith((f"{half}.", f"{outside}.")))
    return ArrayNetwork(streams, read, observe)


class _Run:
    """One forward pass, which notes the largest magnitude of what is written into each stream and read from it."""

    def __init__(self, weights: Mapping[str, NDArray[np.float32]], groups: int, streams: Streams) -> None:
        self._weights, self._groups, self._streams = weights, groups, streams
        self.largest = dict.fromkeys(streams.names, 0.0)

    def step(self, step: Step, x: Array) -> Array:
        """Returns what one step makes of a feature map, (N, H, W, C)."""
        path = step.path
        if step.kind == "enter":
            return self._convolve(f"{path}.conv_in", x)
        if step.kind == "residual":
            return self._residual(path, x, step.shortcut)
        if step.kind == "attention":
            return self._attention(path, x)
        if step.kind == "down":
            return self._convolve(f"{path}.conv", x, stride=2)
        if step.kind == "up":
            return self._convolve(f"{path}.conv", doubled(x))
        return self._convolve(f"{path}.conv_out", x, before=self._norm(f"{path}.conv_norm_out", x))

    def outside(self, path: str, x: Array) -> Array:
        """Returns what the convolution between a half and the latents makes of them, where there is one."""
        return self._convolve(path, x) if f"{path}.weight" in self._weights else x

    def _residual(self, path: str, x: Array, shortcut: bool) -> Array:
        h = self._convolve(f"{path}.conv1", x, before=self._norm(f"{path}.norm1", x))
        h = self._convolve(f"{path}.conv2", h, before=self._norm(f"{path}.norm2", h))
        h += self._convolve(f"{path}.conv_shortcut", x) if shortcut else x
        return h

    def _attention(self, path: str, x: Array) -> Array:
        count, height, width, channels = x.shape
        normed = self._norm(f"{path}.group_norm", x, silu=False)(x).reshape(count, height * width, channels)
        query, key, value = (self._linear(f"{path}.{name}", normed) for name in ("to_q", "to_k", "to_v"))
        out = self._linear(f"{path}.to_out.0", attention(query, key, value)).reshape(x.shape)
        out += x
        return out

    def _convolve(self, path: str, x: Array, stride: int = 1, before: Before | None = None) -> Array:
        out = convolve(x, self._weights[f"{path}.weight"], self._weights[f"{path}.bias"], stride, before)
        return self._noted(path, x, out)

    def _linear(self, path: str, x: Array) -> Array:
        return self._noted(path, x, linear(x, self._weights[f"{path}.weight"], self._weights[f"{path}.bias"]))

    def _norm(self, path: str, x: Array, silu: bool = True) -> Before:
        self._note(self._streams.norms[path], x)
        weight, bias = self._weights[f"{path}.weight"], self._weights[f"{path}.bias"]
        return normaliser(x, self._groups, weight, bias, _EPSILON, silu)

    def _noted(self, path: str, x: Array, out: Array) -> Array:
        reads, writes = self._streams.layers.get(path, (None, None))
        self._note(reads, x)
        self._note(writes, out)
        return out

    def _note(self, stream: str | None, x: Array) -> None:
        if stream is not None:
            self.largest[stream] = max(self.largest[stream], largest_magnitude(x))
