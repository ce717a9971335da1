"""Puts a fitted correction into a package: a factor on tables or scales that are stored anyway, so no new operation."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.basics.memory import peak_resident_bytes
from sdmobile.errors import UnsupportedError
from sdmobile.formats.mlprogram.constants import weight_constants
from sdmobile.quantize.correction_fit import FittedScales, fit_scales
from sdmobile.quantize.linear import LinearEncoding
from sdmobile.quantize.palettes import PaletteEncoding
from sdmobile.quantize.schemes import W8A8

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from sdmobile.formats.bundle.reading import Bundle
    from sdmobile.quantize.apply import Watch
    from sdmobile.quantize.encodings import Encoding
    from sdmobile.quantize.recipes import Recipe


def correctable(packages: Iterable[Path]) -> set[str]:
    """Returns the modules, with underscores for dots, that exactly one weight of the packages is known to belong to."""
    counts = Counter(constant.module for path in packages for constant in weight_constants(path))
    return {module for module, count in counts.items() if module and count == 1}


def fit_bundle(
    bundle: Bundle, packages: Mapping[str, Sequence[Path]], recipe: Recipe, reference: Path | None, watch: Watch
) -> dict[str, FittedScales]:
    """Fits the factors of every component that a recipe compresses.

    Args:
        bundle: the uncompressed bundle.
        packages: its packages by component.
        recipe: what each weight becomes.
        reference: the bundle's checkpoint; None for the one that sdmobile ships.
        watch: called with component and event.

    Raises:
        CheckpointError: the checkpoint is another than the bundle's.
        UnsupportedError: the bundle is not for iOS, or the recipe quantises activations.
    """
    from sdmobile.reference.recording_cache import default_recordings_dir
    from sdmobile.reference.resolve import resolve_reference

    if bundle.target != "ios":
        raise UnsupportedError("corrections are written to Core ML packages", f"the bundle is for {bundle.target}")
    if any(isinstance(scheme, W8A8) for scheme in recipe.schemes()):
        raise UnsupportedError("a correction is for weights alone", recipe.name, "Leave --correct out")
    checkpoint = resolve_reference(bundle, reference)
    found: dict[str, FittedScales] = {}
    for component, paths in packages.items():
        if not recipe.covers(component):
            continue
        started = time.perf_counter()
        watch(component, {"stage": "correct", "event": "start", "seconds": 0.0, "peak_rss_bytes": 0})
        found[component] = fit_scales(checkpoint, component, recipe, correctable(paths), default_recordings_dir())
        seconds = round(time.perf_counter() - started, 3)
        peak = peak_resident_bytes()
        watch(component, {"stage": "correct", "event": "end", "seconds": seconds, "peak_rss_bytes": peak})
    return found


def scaled(encoding: Encoding, factor: float, weight: NDArray[Any]) -> Encoding:
    """Returns an encoding whose decoded weight is multiplied by a factor, up to the rounding of tables or scales.

    A number that a converter folded into the weight does not matter, because the factor commutes with it.

    Args:
        encoding: of the weight; other kinds than palettes and integers stay as they are.
        factor: on the decoded weight.
        weight: the exact weight, for the new `mse`. This may grow: the factor serves the layer's output.
    """
    if isinstance(encoding, PaletteEncoding):
        changed = replace(encoding, lut=_multiplied(encoding.lut, factor))
    elif isinstance(encoding, LinearEncoding):
        changed = replace(encoding, scale=_multiplied(encoding.scale, factor))
    else:
        return encoding
    difference = np.asarray(weight, np.float32) - changed.decode().astype(np.float32)
    return replace(changed, mse=float(np.mean(np.square(difference), dtype=np.float64)))


def _multiplied(values: NDArray[np.float16], factor: float) -> NDArray[np.float16]:
    return (values.astype(np.float32) * np.float32(factor)).astype(np.float16)
