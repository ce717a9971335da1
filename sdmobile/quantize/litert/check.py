"""Reads integer weights back from a `.tflite` file and compares them with the float16 ones they came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.errors import ComponentError
from sdmobile.formats.tflite.reader import read_model
from sdmobile.quantize.litert.engine import TFLiteWeight

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from sdmobile.formats.tflite.model import Graph, Quantization, Tensor
    from sdmobile.quantize.schemes import Linear

_HALF_STEP = 0.501


def check_integers(
    path: Path, weights: tuple[TFLiteWeight, ...], schemes: Mapping[str, Linear]
) -> dict[str, tuple[int, float]]:
    """Returns stored bytes and mean squared error of every weight with a scheme, computed from the file.

    Raises:
        ComponentError: a weight is missing, of another type, or further from its original than half a step.
    """
    graphs = read_model(path).graphs
    facts: dict[str, tuple[int, float]] = {}
    for weight in weights:
        if weight.name not in schemes:
            continue
        graph = graphs[weight.subgraph]
        tensor = next((stored for stored in graph.tensors if stored.name == weight.name), None)
        expected = f"INT{schemes[weight.name].bits}"
        if tensor is None or tensor.dtype != expected or tensor.shape != weight.values.shape:
            raise _error(path, weight, "is not stored as the recipe says")
        facts[weight.name] = _compare(path, graph, tensor, weight, schemes[weight.name])
    return facts


def _compare(path: Path, graph: Graph, tensor: Tensor, weight: TFLiteWeight, scheme: Linear) -> tuple[int, float]:
    if tensor.data is None or tensor.quantization is None:
        raise _error(path, weight, "has no integers, or no scales for them")
    data = np.frombuffer(tensor.data, np.uint8)
    scale = _scales(graph, tensor.quantization)
    shape, axis = weight.values.shape, tensor.quantization.axis
    if scale.size % shape[axis]:
        raise _error(path, weight, f"has {scale.size} scales for the {shape[axis]} channels of its axis {axis}")
    # A step per channel, or per block of one. Depthwise convolutions have their channels on the last axis.
    original = _by_channel(weight.values, axis)
    steps = np.repeat(scale.reshape(len(original), -1), original.size // scale.size, axis=1)
    stored = data.view(np.int8) if scheme.bits == 8 else _unpacked(data, original.size)
    integers = _by_channel(stored.reshape(shape), axis)
    error = np.abs(integers * steps - original.astype(np.float32))
    # Rounding of the scale to float16 moves the largest integers by up to 2^-11 of their value.
    slack = np.abs(original.astype(np.float32)) * 2.0**-10 if scheme.block_size else 0.0
    if not np.all(error <= steps * (_HALF_STEP if scheme.bits == 8 else 1.001) + slack):
        raise _error(path, weight, "differs from its original by more than rounding")
    return data.nbytes + 4 * scale.size, float(np.mean(np.square(error, dtype=np.float64)))


def _by_channel(values: NDArray[Any], axis: int) -> NDArray[Any]:
    """Returns a weight as a matrix with a row per channel."""
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


def _scales(graph: Graph, quantization: Quantization) -> NDArray[np.float32]:
    stored = quantization.values
    if quantization.holder is not None:
        stored = graph.tensors[quantization.holder].values()
    return np.zeros(0, np.float32) if stored is None else stored.astype(np.float32).reshape(-1)


def _unpacked(data: NDArray[np.uint8], size: int) -> NDArray[np.int8]:
    """Returns four-bit integers, the lower half of a byte first."""
    nibbles = np.stack([data << 4, data & 0xF0], axis=1).reshape(-1)[:size].view(np.int8)
    return nibbles >> 4


def _error(path: Path, weight: TFLiteWeight, what: str) -> ComponentError:
    return ComponentError("a compressed weight must read back", f"{weight.name} in {path.name} {what}")
