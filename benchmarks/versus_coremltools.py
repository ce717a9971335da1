"""A package palettised by sdmobile and by coremltools' own k-means, each in a process of its own.

Called by `recipes.py --versus-coremltools`. Ours is timed with encoding, writing and reading every weight back;
coremltools with loading, `palettize_weights` and saving. The error of each weight is that of the value decoded from the
saved file.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

GIB = 2**30
SMALLEST = 2048


def compare(bundle: Path, component: str, bits: int, tensors: int | None, workers: int) -> None:
    """Prints a Markdown table of both and of the ratio of their errors.

    Args:
        bundle: uncompressed bundle for iOS.
        component: canonical name.
        bits: of the palettes.
        tensors: so many of the largest weights, and those as large as the last; None for all of 2,048 elements.
        workers: processes of coremltools' k-means.
    """
    from sdmobile.formats.mlprogram.constants import weight_constants

    record = json.loads((bundle / "manifest.json").read_text())["components"][component]
    package = bundle / record["file"]
    found = [constant for constant in weight_constants(package) if constant.elements >= SMALLEST]
    least = sorted((constant.elements for constant in found), reverse=True)[: tensors or len(found)][-1]
    chosen = [constant for constant in found if constant.elements >= least]
    with tempfile.TemporaryDirectory(dir=bundle.parent) as folder:
        work = Path(folder)
        plan = {"package": str(package), "bits": bits, "workers": workers, "least": least}
        (work / "plan.json").write_text(json.dumps(plan))
        sides = {side: _run(side, work) for side in ("ours", "theirs")}
        errors = _errors(package, work, {constant.name for constant in chosen})
    _print(sides, errors, sum(constant.elements for constant in chosen), bits, workers)


def _run(side: str, work: Path) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).resolve()), side, str(work)]
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {**json.loads(done.stdout.strip().splitlines()[-1]), "process_s": time.perf_counter() - started}


def _ours(work: Path, plan: dict[str, Any]) -> None:
    from sdmobile.quantize.coreml.apply import compress_package
    from sdmobile.quantize.recipes import Recipe
    from sdmobile.quantize.schemes import Palette

    recipe = Recipe("largest", Palette(plan["bits"]), min_elements=plan["least"])
    compress_package(Path(plan["package"]), work / "ours.mlpackage", recipe, "unet")


def _theirs(work: Path, plan: dict[str, Any]) -> None:
    import multiprocessing

    import coremltools as ct
    from coremltools.optimize.coreml import OpPalettizerConfig, OptimizationConfig, palettize_weights

    # With the default, fork, the workers hang for ever once a threaded library has run in this process.
    multiprocessing.set_start_method("forkserver")
    config = OpPalettizerConfig(
        mode="kmeans", nbits=plan["bits"], num_kmeans_workers=plan["workers"], weight_threshold=plan["least"] - 1
    )
    model: Any = palettize_weights(
        ct.models.MLModel(plan["package"], skip_model_load=True), OptimizationConfig(global_config=config)
    )
    model.save(str(work / "theirs.mlpackage"))


def _errors(package: Path, work: Path, names: set[str]) -> dict[str, tuple[float, float]]:
    """Returns the mean squared error of each weight: ours and theirs."""
    from sdmobile.formats.mlprogram.constants import WeightReader, weight_constants
    from sdmobile.quantize.coreml.check import decoded_weights

    reader = WeightReader(package)
    exact = {constant.name: constant for constant in weight_constants(package)}
    sides: list[dict[str, float]] = []
    for file, suffix in (("ours.mlpackage", ""), ("theirs.mlpackage", "_palettized")):
        side: dict[str, float] = {}
        for name, found in decoded_weights(work / file, {name + suffix for name in names}):
            known = name.removesuffix("_palettized")
            difference = reader.read(exact[known]).astype(np.float32) - found
            side[known] = float(np.mean(np.square(difference), dtype=np.float64))
        sides.append(side)
    ours, theirs = sides
    if ours.keys() != names or theirs.keys() != names:
        raise SystemExit(f"weights that one of them lacks: {sorted(names - (ours.keys() & theirs.keys()))[:3]}")
    return {name: (ours[name], theirs[name]) for name in ours}


def _print(
    sides: dict[str, dict[str, float]], errors: dict[str, tuple[float, float]], elements: int, bits: int, workers: int
) -> None:
    print(f"{len(errors)} weights, {elements / 1e6:.1f} M elements, {bits} bits, coremltools with {workers} workers\n")
    print("| | wall s | CPU s | peak GiB |\n|---|--:|--:|--:|")
    for name, side in sides.items():
        # The workers are children of a server process, whose time is not to be had.
        cpu = "–" if name == "theirs" and workers > 1 else f"{side['cpu']:.1f}"
        print(f"| {name} | {side['wall']:.1f} | {cpu} | {side['peak'] / GIB:.2f} |")
    print(f"\ntheirs / ours: {sides['theirs']['wall'] / sides['ours']['wall']:.1f} in wall time")
    quotients = sorted(ours / theirs if theirs else float(ours > 0) for ours, theirs in errors.values())
    higher = sum(quotient > 1 for quotient in quotients)
    print(
        f"MSE ours / theirs: least {quotients[0]:.4f}, median {quotients[len(quotients) // 2]:.4f}, greatest "
        f"{quotients[-1]:.6f}; ours is higher for {higher} of {len(quotients)} weights"
    )


def _side(side: str, work: Path) -> None:
    """Runs one side and prints its times, those of its children included, and its peak."""
    plan = json.loads((work / "plan.json").read_text())
    started = time.perf_counter()
    _ours(work, plan) if side == "ours" else _theirs(work, plan)
    wall = time.perf_counter() - started
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in used)
    print(json.dumps({"wall": wall, "cpu": cpu, "peak": used[0].ru_maxrss * 1024}))


def main() -> None:
    """Compares both, or is one of them."""
    if sys.argv[1] in ("ours", "theirs"):
        _side(sys.argv[1], Path(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="uncompressed bundle for iOS")
    parser.add_argument("--component", default="unet")
    parser.add_argument("--bits", type=int, choices=(1, 2, 4, 6, 8), default=6)
    parser.add_argument("--tensors", type=int, help="so many of the largest weights instead of all")
    parser.add_argument("--workers", type=int, default=2, help="processes of coremltools' k-means")
    options = parser.parse_args()
    compare(options.bundle, options.component, options.bits, options.tensors, options.workers)


if __name__ == "__main__":
    main()
