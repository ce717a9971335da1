"""How long the evaluator takes beside torch eager, for a float16 package of ResNet-18 with random weights.

Both run in one process, in turns, so that other load meets both; the ratio is that of the medians, and the spread that
of the single turns.

    python -m benchmarks.evaluator_speed [--rounds 20] [--threads 1] [--size 224]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sdmobile.runtimes.mlprogram import MLProgram, Precision

PRECISIONS: tuple[Precision, ...] = ("float32", "float16-float32acc", "float16")


class Block(nn.Module):
    """Two convolutions and what they are added to (He et al. 2015, arXiv:1512.03385, figure 2)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width))
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))
        same = stride == 1 and channels == width
        shorter = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.shortcut = nn.Identity() if same else shorter

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


def resnet18() -> nn.Module:
    """Returns ResNet-18 with seeded random weights: 11.7 million."""
    torch.manual_seed(0)
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    blocks, channels = [], 64
    for width in (64, 128, 256, 512):
        blocks += [Block(channels, width, 1 if width == channels else 2), Block(width, width, 1)]
        channels = width
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)).eval()


def save(module: nn.Module, size: int, path: Path) -> Path:
    """Saves a float16 package of a network that takes `x`, one picture."""
    import coremltools as ct

    traced = torch.jit.trace(module, torch.zeros(1, 3, size, size))
    given = [ct.TensorType("x", (1, 3, size, size))]
    target = ct.target.iOS17
    model = ct.convert(traced, inputs=given, outputs=[ct.TensorType("y")], minimum_deployment_target=target)
    model.save(str(path))  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    return path


def in_turns(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Returns the seconds of each run in each round, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for count in range(rounds + 1):
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            if count:
                seconds[name].append(time.perf_counter() - begun)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=int, default=224, help="height and width of the picture")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    module = resnet18()
    x = np.random.default_rng(0).standard_normal((1, 3, arguments.size, arguments.size)).astype(np.float32)
    tensor = torch.from_numpy(x)

    def eager() -> np.ndarray:
        with torch.inference_mode():
            return module(tensor).numpy()

    with tempfile.TemporaryDirectory() as folder:
        path = save(module, arguments.size, Path(folder) / "resnet18.mlpackage")
        programs = {precision: MLProgram(path, precision) for precision in PRECISIONS}
        runs: dict[str, Callable[[], object]] = {"torch eager": eager}
        runs |= {name: lambda program=program: program.predict({"x": x}) for name, program in programs.items()}
        seconds = in_turns(runs, arguments.rounds)
        exact = eager()
        print("| | ms | to torch | in single turns | difference |\n|---|---|---|---|---|")
        for name, times in seconds.items():
            ratios = sorted(mine / theirs for mine, theirs in zip(times, seconds["torch eager"], strict=True))
            ratio = statistics.median(times) / statistics.median(seconds["torch eager"])
            found = exact if name == "torch eager" else programs[name].predict({"x": x})["y"]
            difference = np.linalg.norm(found - exact) / np.linalg.norm(exact)
            low, high = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
            ms = 1000 * statistics.median(times)
            print(f"| {name} | {ms:.1f} | {ratio:.2f} | {low:.2f}–{high:.2f} | {difference:.1e} |")


if __name__ == "__main__":
    main()
