"""Palettes of real weights: error and time beside coremltools' own k-means, and the time for a whole component.

    python benchmarks/palettes.py --checkpoint DIR --bits 6 --tensors 8      both, on a sample of the UNet's weights
    python benchmarks/palettes.py --checkpoint DIR --bits 6 --all            ours only, on all of them

The weights are read one at a time. CPU seconds are of the process, so that other load matters less than for wall time.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from sdmobile.quantize.palettes import palettize
from sdmobile.quantize.recipes import MIN_ELEMENTS
from sdmobile.quantize.schemes import Palette

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")


@dataclass(frozen=True)
class Timed:
    """Wall and CPU seconds of one call."""

    wall: float
    cpu: float


def main() -> None:
    """Prints a table and totals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="Diffusers folder")
    parser.add_argument("--component", default="unet")
    parser.add_argument("--bits", type=int, choices=(1, 2, 3, 4, 6, 8), default=6)
    parser.add_argument("--group-size", type=int, default=0, help="output channels per table (0: one per tensor)")
    parser.add_argument("--tensors", type=int, default=8, help="size of the sample, spread over the component")
    parser.add_argument("--all", action="store_true", help="all weights, without coremltools")
    options = parser.parse_args()
    scheme = Palette(options.bits, options.group_size)
    folder = options.checkpoint / options.component
    if options.all:
        _whole(folder, scheme)
    else:
        _beside(folder, scheme, options.tensors)


def _whole(folder: Path, scheme: Palette) -> None:
    spent, count, elements, error = Timed(0, 0), 0, 0, 0.0
    for name, weight in _weights(folder):
        if scheme.group_size and weight.shape[0] % scheme.group_size:
            continue
        encoding, took = _timed(lambda weight=weight: palettize(weight, scheme))
        spent = Timed(spent.wall + took.wall, spent.cpu + took.cpu)
        count, elements, error = count + 1, elements + weight.size, error + encoding.mse * weight.size
        print(f"{name}: {took.cpu:.3f} s", file=sys.stderr)
    print(f"{scheme.name}: {count} tensors, {elements / 1e6:.1f} M weights, RMS error {(error / elements) ** 0.5:.3e}")
    print(f"{spent.cpu:.1f} s CPU, {spent.wall:.1f} s wall, histogram and indices included")


def _beside(folder: Path, scheme: Palette, sample: int) -> None:
    names = [name for name, _ in _shapes(folder)]
    chosen = set(names[:: max(1, len(names) // sample)][:sample])
    print("| tensor | elements | MSE ours / theirs | CPU s ours | CPU s theirs | theirs / ours |")
    print("|---|---|---|---|---|---|")
    ours_total = theirs_total = 0.0
    ratios = []
    for name, weight in _weights(folder, chosen):
        encoding, ours = _timed(lambda weight=weight: palettize(weight, scheme))
        decoded, theirs = _timed(lambda weight=weight: _coremltools(weight, scheme))
        difference = weight.astype(np.float64) - decoded.astype(np.float64)
        ratios.append(encoding.mse / float(np.mean(difference * difference)))
        ours_total, theirs_total = ours_total + ours.cpu, theirs_total + theirs.cpu
        print(
            f"| {name} | {weight.size} | {ratios[-1]:.6f} | {ours.cpu:.3f} | {theirs.cpu:.3f} "
            f"| {theirs.cpu / ours.cpu:.1f} |",
            flush=True,
        )
    print(f"\nsum: ours {ours_total:.2f} s, theirs {theirs_total:.2f} s, {theirs_total / ours_total:.1f} times")
    print(f"MSE ratio: least {min(ratios):.6f}, greatest {max(ratios):.6f}")


def _coremltools(weight: NDArray[np.float16], scheme: Palette) -> NDArray[np.float16]:
    """Returns the weight as coremltools' palettes decode it, one table per group of output channels."""
    from coremltools.models.neural_network.quantization_utils import _get_kmeans_lookup_table_and_weight

    groups = np.split(weight, weight.shape[0] // scheme.group_size) if scheme.group_size else [weight]
    parts: list[Any] = []
    for group in groups:
        table, codes = _get_kmeans_lookup_table_and_weight(scheme.bits, group)
        parts.append(np.asarray(table).reshape(-1).astype(np.float16)[np.asarray(codes).reshape(group.shape)])
    return np.concatenate(parts)


def _shapes(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                shape = tuple(file.get_slice(name).get_shape())
                if len(shape) > 1 and np.prod(shape) >= MIN_ELEMENTS:
                    yield name, shape


def _weights(folder: Path, only: set[str] | None = None) -> Iterator[tuple[str, NDArray[np.float16]]]:
    """Yields the weights of convolutions, linear layers and tables, in float16."""
    from safetensors import safe_open

    names = {name for name, _ in _shapes(folder)}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                if name in names and (only is None or name in only):
                    yield name, file.get_tensor(name).astype(np.float16, copy=False)


def _timed(call: Callable[[], T]) -> tuple[T, Timed]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return result, Timed(time.perf_counter() - wall, time.process_time() - cpu)


if __name__ == "__main__":
    main()
