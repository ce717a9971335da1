"""Exports an SD1.5-shaped checkpoint beside the plain converters, component by component, in one run.

    python benchmarks/full_size.py [--checkpoint DIR] [--work DIR] [--targets ios,android] [--components ...]

Writes a Markdown table to standard output. Each conversion has a process of its own; peaks are those of the process.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from sdmobile.basics.files import size_of
from sdmobile.exporters.job import ExportJob
from sdmobile.exporters.process import run_component
from sdmobile.families import component_names
from tests.synthetic import write_checkpoint

GIB = 2**30


def ours(checkpoint: Path, component: str, target: str, work: Path) -> dict[str, Any]:
    """Returns seconds, peak and stages of sdmobile's own export of a component."""
    folder = work / "ours" / target
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    record = run_component(ExportJob(checkpoint, component, target, None, "batch2", None, folder), work, lambda _: None)
    return {
        "seconds": time.perf_counter() - started,
        "peak": max(stage["peak_rss_bytes"] for stage in record["stages"]),
        "bytes": record["bytes"],
        "stages": record["stages"],
    }


def plain(checkpoint: Path, component: str, target: str, work: Path) -> dict[str, Any]:
    """Returns seconds and peak of the plain converter, or why it failed."""
    output = work / f"plain-{component}.{'mlpackage' if target == 'ios' else 'tflite'}"
    script = Path(__file__).with_name("plain.py")
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(script), str(checkpoint), component, target, str(output)], capture_output=True, text=True
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1][:200]}
    row = json.loads(done.stdout.strip().splitlines()[-1])
    result = {"seconds": seconds, "peak": row["peak_rss_bytes"], "bytes": size_of([output])}
    shutil.rmtree(output) if output.is_dir() else output.unlink()
    return result


def _cell(result: dict[str, Any]) -> str:
    if "failed" in result:
        return f"failed: {result['failed']} | - | -"
    return f"{result['seconds']:.0f} | {result['peak'] / GIB:.2f} | {result['bytes'] / 1e6:.0f}"


def main() -> None:
    """Runs the benchmark and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="SD1.5-shaped checkpoint; without it, one is written")
    parser.add_argument("--work", type=Path, default=Path("build/full-size"))
    parser.add_argument("--targets", default="ios,android")
    parser.add_argument("--components", default=",".join(component_names()))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    checkpoint = arguments.checkpoint or arguments.work / "sd15"
    if not checkpoint.exists():
        write_checkpoint(checkpoint, "sd15")
    stages: list[str] = []
    print("| target | component | sdmobile s | GiB | MB | plain s | GiB | MB |\n|---|---|---|---|---|---|---|---|")
    for target in arguments.targets.split(","):
        for component in arguments.components.split(","):
            mine = ours(checkpoint, component, target, arguments.work)
            other = plain(checkpoint, component, target, arguments.work)
            print(f"| {target} | {component} | {_cell(mine)} | {_cell(other)} |", flush=True)
            for stage in mine["stages"]:
                memory = stage["peak_rss_bytes"] / GIB
                stages.append(f"| {target} | {component} | {stage['name']} | {stage['seconds']:.1f} | {memory:.2f} |")
    print("\n| target | component | stage | s | GiB peak |\n|---|---|---|---|---|")
    print("\n".join(stages))


if __name__ == "__main__":
    main()
