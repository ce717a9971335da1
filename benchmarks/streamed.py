"""Whole bundles streamed into structures beside the plain converters, in one run, each in a process of its own.

    python -m benchmarks.streamed [--checkpoint DIR] [--work DIR] [--targets ios,android] [--repeats 3] [--long] …

`--long` adds our own long way. Seconds are those of the whole process, its start and the checkpoint's hash included;
memory is the largest resident set of any one process. Writes a Markdown table to standard output.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.full_size import GIB, plain
from tests.synthetic import write_checkpoint

COMPONENTS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")


def run(command: list[str]) -> tuple[float, int]:
    """Runs a command and returns its seconds and the largest resident set of it, or of one that it started, in bytes.

    Raises:
        RuntimeError: it failed.
    """
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
        assert child.stderr is not None
        told = child.stderr.read().decode(errors="replace")
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(told.strip().splitlines()[-1])
    return time.perf_counter() - started, usage.ru_maxrss * 1024


def export(checkpoint: Path, target: str, out: Path, *options: str) -> tuple[float, int]:
    """Exports a bundle by the command line."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "sdmobile.cli.app", "export", str(checkpoint), "--target", target]
    result = run([*command, "--output", str(out), "--no-cache", "--quiet", *options])
    shutil.rmtree(out)
    return result


def main() -> None:
    """Runs the benchmark and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="SD1.5-shaped checkpoint; without it, one is written")
    parser.add_argument("--work", type=Path, default=Path("build/streamed"))
    parser.add_argument("--targets", default="ios,android")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--no-plain", action="store_true")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    checkpoint = arguments.checkpoint or arguments.work / "sd15"
    if not checkpoint.exists():
        write_checkpoint(checkpoint, "sd15")
    print("| target | way | s | GiB |\n|---|---|---|---|")
    for target in arguments.targets.split(","):
        out = arguments.work / f"bundle-{target}"
        for number in range(1, arguments.repeats + 1):
            _row(target, f"streamed, run {number}", *export(checkpoint, target, out))
        if target == "ios":
            palette = ("--components", "unet", "--quantize", "palette6")
            _row(target, "streamed, UNet with 6-bit palettes", *export(checkpoint, target, out, *palette))
        if arguments.long:
            _row(target, "the long way", *export(checkpoint, target, out, "--no-structure"))
        if not arguments.no_plain:
            _plain(checkpoint, target, arguments.work)


def _plain(checkpoint: Path, target: str, work: Path) -> None:
    """Converts the components one after the other with the plain converter; prints their sum."""
    rows = {component: plain(checkpoint, component, target, work) for component in COMPONENTS}
    done = {component: row for component, row in rows.items() if "failed" not in row}
    for component, row in rows.items():
        if component not in done:
            print(f"| {target} | plain converter, {component} | failed: {row['failed']} | |", flush=True)
            continue
        _row(target, f"plain converter, {component}", row["seconds"], row["peak"])
    if done:
        seconds, peak = sum(row["seconds"] for row in done.values()), max(row["peak"] for row in done.values())
        _row(target, f"plain converter, those {len(done)} of {len(rows)}", seconds, peak)


def _row(target: str, way: str, seconds: float, peak: int) -> None:
    print(f"| {target} | {way} | {seconds:.1f} | {peak / GIB:.2f} |", flush=True)


if __name__ == "__main__":
    main()
