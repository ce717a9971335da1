"""Compresses one `.tflite` file by a recipe and checks what was written."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sdmobile.basics.files import whole_file
from sdmobile.basics.memory import peak_resident_bytes
from sdmobile.errors import OutputError, UnsupportedError
from sdmobile.quantize.litert.check import check_integers
from sdmobile.quantize.litert.engine import TFLiteWeight, float16_weights, quantize_file, reason_against
from sdmobile.quantize.recipes import Recipe
from sdmobile.quantize.records import CompressionRecord, TensorRecord
from sdmobile.quantize.schemes import Float16, Linear
from sdmobile.quantize.support import require_supported

if TYPE_CHECKING:
    from pathlib import Path


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
    started = time.perf_counter()
    if out.exists():
        raise OutputError("the output must not exist", out, "Choose another path")
    weights = float16_weights(source)
    chosen, kept = _choose(weights, recipe, component, device)
    before = source.stat().st_size
    if not chosen:
        reason = next((line for line in kept.values() if line), "the recipe changes no weight of it")
        raise OutputError("a compressed file must be smaller", f"{source.name}: {reason}", "Leave the component out")
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
    return tuple(dict.fromkeys(weight.module for weight in float16_weights(path)))


def _choose(
    weights: tuple[TFLiteWeight, ...], recipe: Recipe, component: str, device: str | None
) -> tuple[dict[str, Linear], dict[str, str]]:
    """Returns the integer scheme of each weight that gets one, and why each other stays float16."""
    chosen: dict[str, Linear] = {}
    kept: dict[str, str] = {}
    for weight in weights:
        scheme = recipe.scheme_for(component, weight.module, weight.values.size)
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
