"""Compresses one `.tflite` file by a recipe and checks what was written."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.basics.files import whole_file
from sdmobile.basics.memory import peak_resident_bytes
from sdmobile.errors import ComponentError, OutputError, UnsupportedError
from sdmobile.formats.errors import whole
from sdmobile.formats.tflite.reader import read_model
from sdmobile.quantize.litert.engine import TFLiteWeight, float16_weights, quantize_file, reason_against
from sdmobile.quantize.recipes import Recipe
from sdmobile.quantize.records import CompressionRecord, NothingToCompressError, TensorRecord
from sdmobile.quantize.schemes import Float16, Linear
from sdmobile.quantize.support import require_supported

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from sdmobile.formats.tflite.model import Graph, Quantization, Tensor
    from sdmobile.quantize.schemes import Linear


def compress_tflite(
    source: Path, out: Path, recipe: Recipe, component: str, device: str | None = "android-cpu"
) -> CompressionRecord:
    """Writes a file whose float16 weights are integers where a recipe says so, and reads every one back.

    Float32 tables and everything else in the file stay as they are.

    Args:
        source: a finished `.tflite` with float16 weights.
        out: the file to write; it must not exist.
        recipe: what each weight becomes.
        component: "unet" and the like, by which the recipe's overrides tell components apart.
        device: device profile that must take the result.

    Returns:
        What was done; a weight that no kernel takes in its scheme stays float16 with the reason.

    Raises:
        UnsupportedError: a scheme is not for `.tflite` files or not for the device.
        OutputError: the file did not get smaller, or exists.
        ComponentError: a weight read back is another than the one given.
    """
    if out.exists():
        raise OutputError("the output must not exist", out, "Choose another path")
    with whole(source):
        return _compressed(source, out, recipe, component, device)


def _compressed(source: Path, out: Path, recipe: Recipe, component: str, device: str | None) -> CompressionRecord:
    started = time.perf_counter()
    weights = float16_weights(source)
    chosen, kept = _choose(weights, recipe, component, device)
    before = source.stat().st_size
    if not chosen:
        reason = next((line for line in kept.values() if line), "the recipe changes no weight of it")
        rule, value = "a compressed file must be smaller", f"{source.name}: {reason}"
        raise NothingToCompressError(rule, value, "Leave the component out")
    with whole_file(out) as partial:
        quantize_file(source, partial, chosen, weights)
        facts = check_integers(partial, weights, chosen)
        if (after := partial.stat().st_size) >= before:
            raise OutputError(
                "a compressed file must be smaller", f"{out.name}: {before} to {after} bytes", "Use fewer bits"
            )
    return CompressionRecord(
        recipe=recipe.name,
        recipe_key=recipe.key,
        tensors=tuple(_record(weight, chosen, kept, facts) for weight in weights),
        bytes_before=before,
        bytes_after=after,
        seconds=time.perf_counter() - started,
        peak_rss_bytes=peak_resident_bytes(),
        checked=len(facts),
    )


def modules(path: Path) -> tuple[str, ...]:
    """Returns the modules of a file that have float16 weights."""
    with whole(path):
        return tuple(dict.fromkeys(weight.module for weight in float16_weights(path)))


def _choose(
    weights: tuple[TFLiteWeight, ...], recipe: Recipe, component: str, device: str | None
) -> tuple[dict[str, Linear], dict[str, str]]:
    """Returns the integer scheme of each weight that gets one, and why each other stays float16."""
    chosen: dict[str, Linear] = {}
    kept: dict[str, str] = {}
    for weight in weights:
        scheme = recipe.scheme_for(component, weight.module, weight.values.size, weight.operator == "FULLY_CONNECTED")
        require_supported(scheme, "android", device)
        if isinstance(scheme, Float16):
            kept[weight.name] = ""
            continue
        if not isinstance(scheme, Linear):
            raise UnsupportedError("a .tflite file holds fp16 or integer weights", scheme.name, "Use int8c or int8d")
        reason = reason_against(weight, scheme)
        if reason is None:
            chosen[weight.name] = scheme
        else:
            kept[weight.name] = f"{scheme.name}: {reason}"
    return chosen, kept


def _record(
    weight: TFLiteWeight, chosen: dict[str, Linear], kept: dict[str, str], facts: dict[str, tuple[int, float]]
) -> TensorRecord:
    size = weight.values.nbytes
    if weight.name not in chosen:
        return TensorRecord(weight.name, weight.module, "fp16", weight.values.size, size, size, 0.0, kept[weight.name])
    stored, mse = facts[weight.name]
    scheme = chosen[weight.name].name
    return TensorRecord(weight.name, weight.module, scheme, weight.values.size, size, stored, mse)


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
