"""Calibrates the CPU of this computer and says how well that predicts models.

python -m benchmarks.calibration.cpu --output my-cpu.toml [--threads 1 2]
                                                   [--evaluate [NAME=BUNDLE ...]] [--page docs/latency-model.md]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.calibration.cpu_graphs import benchmarks
from benchmarks.calibration.cpu_measure import (
    Plan,
    measure_benchmarks,
    this_machine,
    thread_counts,
)
from benchmarks.calibration.cpu_models import bundle_models, keep_graph, measure_models
from benchmarks.calibration.cpu_profile import fitted_units, sections, write_cpu_profile
from benchmarks.calibration.cpu_results import STORED, CpuResults, read_results, rounded, write_results
from benchmarks.calibration.profile_values import write_page
from sdmobile.errors import MissingDependencyError, OutputError, SdmobileError
from sdmobile.formats.graph import FileGraph


def calibrate(
    plan: Plan, conditions: str = "", bundles: Sequence[str] | None = None
) -> tuple[CpuResults, dict[str, FileGraph]]:
    """Measures microbenchmarks, and models where asked.

    Args:
        plan: threads, rounds, clock.
        conditions: what is to be said about the computer's state.
        bundles: None for no models; else NAME=FOLDER of bundles to measure beside the public models.

    Returns:
        The measurements, and the graphs of the bundles' models by name.

    Raises:
        MissingDependencyError: LiteRT is not installed.
        UnsupportedError: a bundle cannot be read.
    """
    try:
        import ai_edge_litert  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "calibrating the CPU needs ai-edge-litert", error, "Install it: pip install 'sdmobile[android]'."
        ) from error
    files = {name: path for given in bundles or () for name, path in bundle_models(given).items()}
    _note("microbenchmarks")
    small = measure_benchmarks(benchmarks(), plan)
    graphs: dict[str, FileGraph] = {}
    models: dict[int, dict[str, float]] = {threads: {} for threads in plan.threads}
    for name, graph, seconds in measure_models(files, plan) if bundles is not None else ():
        _note(f"{name}: " + ", ".join(f"{took * 1e3:.1f} ms ({threads})" for threads, took in seconds.items()))
        if name in files:
            graphs[name] = graph
        for threads, took in seconds.items():
            models[threads][name] = took
    return CpuResults(this_machine(conditions), rounded(small), rounded(models)), graphs


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Calibrates, prints the tables, and writes what is asked for."""
    arguments = _arguments()
    try:
        _check(arguments.output)
        results, graphs = (read_results(), {}) if arguments.stored else _measured(arguments)
        units = fitted_units(results, graphs)
        found = sections(results, units)
        print("\n\n".join(f"## {name}\n\n{content}" for name, content in found.items() if content))
        if arguments.write:
            write_results(results, STORED)
            for name, graph in graphs.items():
                keep_graph(name, graph)
            write_cpu_profile(results, units)
        if arguments.output is not None:
            write_cpu_profile(results, units, arguments.output)
        if arguments.page is not None:
            write_page(found, arguments.page)
    except SdmobileError as error:
        raise SystemExit(error.message()) from error


def _check(output: Path | None) -> None:
    """Refuses a profile that could not be written, before minutes of measuring."""
    if output is not None and (output.suffix != ".toml" or not output.absolute().parent.is_dir()):
        raise OutputError("the profile must be a .toml file in a folder that exists", output)


def _measured(arguments: argparse.Namespace) -> tuple[CpuResults, dict[str, FileGraph]]:
    clock = time.thread_time if arguments.processor_time else time.perf_counter
    threads = (1,) if arguments.processor_time else thread_counts(arguments.threads)
    return calibrate(Plan(threads, arguments.rounds, clock), arguments.conditions, arguments.evaluate)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Calibrates this computer's CPU by microbenchmarks.")
    parser.add_argument("--output", type=Path, help="write a profile of this computer, for --device FILE")
    parser.add_argument("--threads", type=int, nargs="+", default=(), help="default: 1, and all cores up to 4")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured")
    parser.add_argument(
        "--evaluate", nargs="*", metavar="NAME=BUNDLE", help="also measure and predict models: public ones and bundles"
    )
    parser.add_argument("--page", type=Path, help="write the tables into this page, between its marks")
    parser.add_argument("--conditions", default="", help="what to note about the computer's state")
    parser.add_argument("--processor-time", action="store_true", help="for a busy computer; one thread")
    parser.add_argument("--stored", action="store_true", help="fit the stored measurements again, measure nothing")
    parser.add_argument("--write", action="store_true", help="make these the package's reference measurements")
    return parser.parse_args()


if __name__ == "__main__":
    main()
