"""Stored weights as NumPy arrays in float32: what a file holds, and what a model gets, without torch."""

from __future__ import annotations

from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.checkpoints.headers import read_header
from sdmobile.checkpoints.lora_kinds import delta
from sdmobile.checkpoints.pickles import load_pickle
from sdmobile.checkpoints.weights import PICKLE_SUFFIXES
from sdmobile.errors import CheckpointError
from sdmobile.families.clip import TOKEN_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    import torch
    from numpy.typing import NDArray

    from sdmobile.checkpoints.embeddings import Embedding
    from sdmobile.checkpoints.headers import TensorInfo
    from sdmobile.checkpoints.lora import LoraLayer
    from sdmobile.checkpoints.types import Checkpoint

# How the bits of each type are read; NumPy has no names for the last three.
_BITS = {
    "float64": "<f8",
    "float32": "<f4",
    "float16": "<f2",
    "bfloat16": "<u2",
    "float8_e4m3fn": "u1",
    "float8_e5m2": "u1",
}


def read_array(info: TensorInfo) -> NDArray[np.float32]:
    """Returns one tensor of a safetensors file in float32, multiplied by its scale where it has one.

    Exact but for float64, which is rounded to nearest, and the product.

    Args:
        info: from the header of the file; rows of a tensor, and one that is stored transposed, are read as such.

    Raises:
        CheckpointError: it holds no floating-point numbers, or the file changed since its header was read, or cannot
            be read.
    """
    if info.dtype not in _BITS:
        raise CheckpointError(
            "weights must be stored as floating-point numbers",
            f"{info.stored} is {info.dtype}",
            "Undo the quantisation first, or use another copy of the checkpoint.",
        )
    bits = read_bits(info)
    values = _widened(bits.reshape(-1), info.dtype).reshape(bits.shape)
    return values if info.scale is None else values * _by_row(read_array(info.scale), values.ndim)


def read_bits(info: TensorInfo) -> NDArray[Any]:
    """Returns one tensor of a safetensors file as it is stored, its axes in the module's order.

    What NumPy has no name for comes as unsigned integers of the same width. Errors as `read_array`.
    """
    shape = info.stored_shape
    try:
        bits = np.fromfile(info.file, _BITS.get(info.dtype, info.dtype), prod(shape), offset=info.offset)
    except OSError as error:
        raise CheckpointError("every file of the checkpoint must be readable", error) from error
    if bits.size != prod(shape):
        raise CheckpointError("a weight file must not change while it is read", info.file)
    return np.ascontiguousarray(bits.reshape(shape).T) if info.transposed else bits.reshape(shape)


def _by_row(scale: NDArray[np.float32], axes: int) -> NDArray[np.float32]:
    """Returns the scale of fp8 weights, one number or one per row, with axes to multiply by."""
    return scale.reshape(()) if scale.size == 1 else scale.reshape(-1, *[1] * (axes - 1))


def _widened(bits: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    if dtype == "bfloat16":  # the upper half of a float32
        wide = np.zeros((bits.size, 2), "<u2")
        wide[:, 1] = bits
        return wide.view("<f4").reshape(-1)
    if dtype.startswith("float8"):
        return _fp8(dtype).take(bits)
    with np.errstate(over="ignore"):  # of float64; what is infinite then is refused as such
        return bits.astype(np.float32, copy=False)


@cache
def _fp8(dtype: str) -> NDArray[np.float32]:
    """Returns the values of all 256 bytes of a type with 8 bits.

        e5m2      the upper half of a float16
        e4m3fn    ±2^(e−7)·(1 + m/8), and ±2^(−6)·m/8 for e = 0; no infinity, NaN for e = 15 with m = 7

    Micikevicius et al., "FP8 formats for deep learning", arXiv 2209.05433.
    """
    byte = np.arange(256, dtype=np.uint16)
    if dtype == "float8_e5m2":
        return (byte << 8).view(np.float16).astype(np.float32)
    exponent, mantissa = (byte >> 3 & 15).astype(np.int64), (byte & 7) / 8.0
    magnitude = np.where(exponent == 0, np.ldexp(mantissa, -6), np.ldexp(1.0 + mantissa, exponent - 7))
    magnitude[(byte & 127) == 127] = np.nan
    return np.where(byte >= 128, -magnitude, magnitude).astype(np.float32)


def model_arrays(
    checkpoint: Checkpoint, name: str, wanted: Collection[str] | None = None
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yields a model's weights in float32 with what the checkpoint's LoRAs and embeddings change, one at a time.

    Args:
        checkpoint: from open_checkpoint.
        name: of the family's model.
        wanted: names of the weights in the module; None for all.

    Raises:
        CheckpointError: a weight is not finite, or a file is corrupt.
    """
    sources = plain_sources(checkpoint, name)
    if sources is None:
        finish = finisher(checkpoint, name)
        tensors = checkpoint.components[name].tensors
        for key, value in _pickled_arrays({key: tensors[key] for key in tensors if wanted is None or key in wanted}):
            yield key, finish(key, value)
        return
    read = array_reader(checkpoint, name, sources)
    for key in sources if wanted is None else (key for key in sources if key in wanted):
        yield key, read(key)


def _pickled_arrays(tensors: Mapping[str, TensorInfo]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yields name and values in float32 of each weight of pickled files, copied, because the files are mapped."""
    import torch

    for path in dict.fromkeys(info.file for info in tensors.values()):
        stored = load_pickle(path)[0]

        def values(info: TensorInfo, stored: Mapping[str, torch.Tensor] = stored) -> NDArray[np.float32]:
            flat, shape = stored[info.stored].reshape(-1), info.stored_shape
            first = info.offset // flat.element_size()
            value = flat[first : first + prod(shape)].to(torch.float32, copy=True).reshape(shape).numpy()
            return np.ascontiguousarray(value.T) if info.transposed else value

        for key, info in tensors.items():
            if info.file == path:
                value = values(info)
                yield key, value if info.scale is None else value * _by_row(values(info.scale), value.ndim)


def plain_sources(checkpoint: Checkpoint, name: str) -> dict[str, TensorInfo] | None:
    """Returns where each weight of a model lies, in the files' order, by its name in the module; None for a pickle.

    Raises:
        CheckpointError: a file is damaged, or has changed since it was opened.
    """
    info = checkpoint.components[name]
    if any(file.suffix.lower() in PICKLE_SUFFIXES for file in info.weight_files):
        return None
    headers = {file: read_header(file)[0] for file in info.weight_files}
    for one in info.tensors.values():
        now = headers[one.file].get(one.stored)
        within = now is not None and now.offset <= one.offset <= now.offset + now.bytes
        if now is None or not within or now.dtype != one.dtype:
            raise CheckpointError("a weight file must not change while it is read", f"{one.file}: {one.stored}")
    order = {file: index for index, file in enumerate(headers)}
    return dict(sorted(info.tensors.items(), key=lambda item: (order[item[1].file], item[1].offset)))


def array_reader(
    checkpoint: Checkpoint, name: str, sources: Mapping[str, TensorInfo]
) -> Callable[[str], NDArray[np.float32]]:
    """Returns what reads one weight of a model by its name in the module, from any thread.

    Args:
        checkpoint: from open_checkpoint.
        name: of the family's model.
        sources: from `plain_sources`.
    """
    finish = finisher(checkpoint, name)
    return lambda key: finish(key, read_array(sources[key]))


def finisher(checkpoint: Checkpoint, name: str) -> Callable[[str, NDArray[np.float32]], NDArray[np.float32]]:
    """Returns what makes of a stored weight, given its name in the module, that of the model.

    It checks that the weight is finite, and adds what LoRAs and learned words change.
    """
    changes = lora_layers(checkpoint, name)

    def finish(key: str, value: NDArray[np.float32]) -> NDArray[np.float32]:
        require_finite(name, key, value)
        for layer in changes.get(key, ()):
            change = lora_change(checkpoint, name, layer)
            with np.errstate(over="ignore"):
                value += change
            if not np.isfinite(value).all():
                raise CheckpointError("weights must stay finite with a LoRA", f"{name}: {key}", "Take a smaller scale.")
        return put_rows(value, checkpoint.embeddings, name) if key == TOKEN_ROWS else value

    return finish


def check_values(checkpoint: Checkpoint, name: str) -> None:
    """Reads a model's weights once; raises CheckpointError where one is NaN or infinite, or a file is corrupt."""
    for _ in model_arrays(checkpoint, name):
        pass


def lora_layers(checkpoint: Checkpoint, name: str) -> dict[str, list[LoraLayer]]:
    """Returns what LoRAs change in a model, by weight, in the order of the LoRAs."""
    tensors = checkpoint.components[name].tensors
    found: dict[str, list[LoraLayer]] = {}
    for layer in (layer for lora in checkpoint.loras for layer in lora.layers):
        if layer.model == name and layer.weight in tensors:  # else of a layer that is left out
            found.setdefault(layer.weight, []).append(layer)
    return found


def lora_change(checkpoint: Checkpoint, name: str, layer: LoraLayer) -> NDArray[np.float32]:
    """Returns what one layer of a LoRA adds to its weight."""
    parts = {key: read_array(info) for key, info in layer.parts.items()}
    for key, info in layer.parts.items():
        require_finite(name, info.stored, parts[key])
    with np.errstate(over="ignore", invalid="ignore"):
        shape = checkpoint.components[name].tensors[layer.weight].shape
        change = layer.factor * layer.rows.take(delta(parts, layer.rows.whole(shape)))
    require_finite(name, f"the LoRA's change of {layer.weight}", change)
    return change


def put_rows(weight: NDArray[np.float32], embeddings: tuple[Embedding, ...], model: str) -> NDArray[np.float32]:
    """Returns the token embedding [rows, d] of a text encoder with the vectors of learned words in their rows."""
    if not embeddings:
        return weight
    end = max(one.first_row + len(one.tokens) for one in embeddings)
    longer = np.concatenate([weight, np.zeros((max(0, end - len(weight)), weight.shape[1]), np.float32)])
    for one in embeddings:
        longer[one.first_row : one.first_row + len(one.tokens)] = one.vectors(model)
    return longer


def require_finite(component: str, name: str, value: NDArray[np.float32]) -> None:
    """Raises CheckpointError where a value is NaN or infinite."""
    with np.errstate(invalid="ignore", over="ignore"):
        total = value.sum()
    # The sum is finite only if all are (or is infinite by overflow, which the exact count then clears).
    if not np.isfinite(total) and (bad := value.size - np.count_nonzero(np.isfinite(value))):
        raise CheckpointError(
            "every weight must be finite",
            f"{component}: {bad} of {value.size} values of {name} are NaN or infinite",
            "Use another copy of the checkpoint, or one that was saved in float32.",
        )
