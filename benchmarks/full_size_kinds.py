"""Exports and checks full-size checkpoints of further kinds, with random weights: inpainting, ControlNet, XL, and
the transformers of `benchmarks.transformers`, whose text encoders and autoencoders are tiny.

    python -m benchmarks.full_size_kinds WORK [--kinds inpainting,controlnet,xl,pixart,…] [--targets ios,android]
        [--checked-only]

Writes a Markdown table to standard output: seconds and memory of the largest process of each command, what the lint
says of the files, and the least PSNR of each component against float32 PyTorch. What PyTorch takes minutes for at its
own size is exported once more at 256 × 256 pixels to be checked; what does not fit into memory in float32 is not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.transformers import TRANSFORMERS
from sdmobile.families import family_named
from tests.families import tiny
from tests.synthetic import write_checkpoint, write_control_network

GIB = 2**30
PROMPT = "a small red circle on white"


@dataclass(frozen=True)
class Kind:
    """A kind of checkpoint at full size.

    Args:
        preset: of `tests.synthetic`.
        family: name of the family.
        changes: to the preset's configurations.
        components: that are exported and checked.
        options: of `export`, by target.
        checked_at: resolution of the bundle that is checked, None for the same.
        controlled: whether a control network goes with it.
        checked: whether its outputs are compared with PyTorch's.
    """

    preset: Any
    family: str
    components: tuple[str, ...]
    options: dict[str, tuple[str, ...]]
    changes: dict[str, dict[str, Any]]
    checked_at: str | None = None
    controlled: bool = False
    checked: bool = True


KINDS = {
    "inpainting": Kind(
        "sd15",
        "stable-diffusion-inpainting",
        ("unet",),
        {"ios": (), "android": ("--chunks", "2")},
        {"unet": {"in_channels": 9}, "index": {"_class_name": "StableDiffusionInpaintPipeline"}},
    ),
    "controlnet": Kind(
        "sd15",
        "stable-diffusion",
        ("controlnet", "unet"),
        {"ios": (), "android": ("--chunks", "2")},
        {},
        controlled=True,
    ),
    "xl": Kind(
        "sdxl",
        "stable-diffusion-xl",
        ("text_encoder", "text_encoder_2", "unet"),
        {"ios": ("--chunks", "4"), "android": ("--chunks", "8")},
        {},
        checked_at="256x256",
    ),
    **{
        name: Kind(
            None,
            one.family,
            ("transformer",),
            dict.fromkeys(("ios", "android"), ("--chunks", "auto", "--no-structure")),
            one.changes,
            one.checked_at,
            checked=one.checked,
        )
        for name, one in TRANSFORMERS.items()
    },
}


@dataclass(frozen=True)
class Done:
    """What a command took.

    Args:
        seconds: wall time.
        peak_bytes: resident memory of its largest process.
        output: what it printed to stdout.
    """

    seconds: float
    peak_bytes: int
    output: str


def timed(*arguments: object) -> Done:
    """Runs sdmobile and watches its processes, those that it starts too."""
    command = [sys.executable, "-m", "sdmobile.cli.app", *map(str, arguments)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process, peak), daemon=True)
    watcher.start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - started
    watcher.join()
    if process.returncode not in (0, 3):  # 3: checked, and below a threshold, which the table shows
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return Done(seconds, peak[0], output)


def _watch(process: subprocess.Popen[str], peak: list[int]) -> None:
    import psutil

    while process.poll() is None:
        try:
            root = psutil.Process(process.pid)
            for one in (root, *root.children(recursive=True)):
                peak[0] = max(peak[0], one.memory_info().rss)
        except psutil.Error:
            pass
        time.sleep(0.2)


def checkpoint_of(name: str, work: Path) -> Path:
    """Writes the checkpoint of a kind, once."""
    kind = KINDS[name]
    folder = work / name
    if (folder / "model_index.json").exists():
        return folder
    if kind.preset is None:
        tiny.write(kind.family, folder, kind.changes)
    else:
        write_checkpoint(folder, kind.preset, changes=kind.changes, family=family_named(kind.family))
    if kind.controlled and not (work / "control").exists():
        write_control_network(work / "control", folder)
    return folder


def measure(name: str, target: str, work: Path, own_size: bool = True) -> None:
    """Exports and checks one kind for one target, and prints the rows of the table.

    Args:
        name: of the kind.
        target: of the files.
        work: folder for checkpoints and bundles.
        own_size: whether a kind that is checked at another size is exported at its own, too.
    """
    kind, checkpoint = KINDS[name], checkpoint_of(name, work)
    components = ("--components", ",".join(kind.components))
    control = ("--control", work / "control") if kind.controlled else ()
    out = work / f"{name}-{target}"
    options = ("--target", target, *components, *control, *kind.options[target], "--no-cache", "--overwrite")
    size = () if own_size or kind.checked_at is None else ("--resolution", kind.checked_at)
    exported = timed("export", checkpoint, *options, *size, "--output", out)
    sizes = {
        name: part["bytes"] for name, part in json.loads((out / "manifest.json").read_text())["components"].items()
    }
    linted = json.loads(timed("lint", out, "--json").output)["verdict"]
    print(f"| {name} | {target} | *export* | {exported.seconds:.0f} s | {exported.peak_bytes / GIB:.1f} GiB |")
    print(f"| {name} | {target} | *lint* | {linted} | {len(list(out.iterdir()))} files and folders |", flush=True)
    if not kind.checked:
        return
    if kind.checked_at is not None and not size:
        timed("export", checkpoint, *options, "--resolution", kind.checked_at, "--output", out)
    prompts = work / "prompts.txt"
    prompts.write_text(PROMPT + "\n", "utf-8")
    reference = ("--reference", checkpoint, *(("--control-model", work / "control") if kind.controlled else ()))
    short = ("--prompts", prompts, "--steps", "1", "--max-samples", "1", "--no-trajectory", "--lint", "off")
    checked = timed("validate", out, *reference, *components, *short, "--no-cache", "--json")
    report = json.loads(checked.output)
    for component in kind.components:
        rows = [row for row in report["components"] if row["component"] == component and row["worst"]]
        levels = ", ".join(f"{row['runtime']} {row['worst']['psnr_db']:.1f} dB" for row in rows)
        print(f"| {name} | {target} | {component} | {sizes[component] / 1e6:.0f} | {levels} |", flush=True)
    weights = sorted({row["status"] for row in report["extras"] if row["checker"] == "weights"})
    print(f"| {name} | {target} | *validate* | {checked.seconds:.0f} s | {checked.peak_bytes / GIB:.1f} GiB |")
    print(f"| {name} | {target} | *weights* | {', '.join(weights)} | |", flush=True)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--targets", default="ios,android")
    parser.add_argument(
        "--checked-only", action="store_true", help="export XL at the size alone at which it is checked"
    )
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    print("| kind | target | component | MB | parity |\n|---|---|---|---|---|", flush=True)
    for name in arguments.kinds.split(","):
        for target in arguments.targets.split(","):
            measure(name, target, arguments.work, not arguments.checked_only)


if __name__ == "__main__":
    main()
