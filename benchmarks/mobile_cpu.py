"""One picture by `shapes-64` and by `shapes-64-mobile` on this machine's CPU, in turns in one run.

    python -m benchmarks.mobile_cpu [--rounds 15] [--threads 2] ANDROID ANDROID_MOBILE

The arguments are the Android bundles of both checkpoints. `shapes-64` draws in 20 guided steps, `shapes-64-mobile` in
one call; the LiteRT files run on XNNPACK, the checkpoints in PyTorch. Prints the medians as a Markdown table: a call of
every component, and the whole picture from prompt to pixels.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from sdmobile.checkpoints.shapes64.held_out import held_out_captions
from sdmobile.reference.sampling import SampleRequest, sample
from sdmobile.reference.source import open_source

COMPONENTS = ("text_encoder", "unet", "vae_decoder")


class Timed:
    """A runner that notes how long each call takes.

    Args:
        runner: any of `sdmobile.runtimes`, or PyTorch's.
    """

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def run(self, component: str, inputs: Any) -> Any:
        """Runs a component as the runner does."""
        started = time.perf_counter()
        outputs = self._runner.run(component, inputs)
        self.seconds[component].append(time.perf_counter() - started)
        return outputs


def main(rounds: int, threads: int, bundles: dict[str, Path]) -> None:
    """Draws one picture by each in every round and prints the table."""
    import torch

    torch.set_num_threads(threads)
    steps = {"shapes-64": 20, "shapes-64-mobile": 1}
    sources: dict[tuple[str, str], tuple[Any, Any]] = {}
    for name, bundle in bundles.items():
        for runtime, source in (("litert", bundle), ("torch", Path(name))):
            runner, spec, _ = open_source(source, runtime, threads=None if runtime == "torch" else threads)
            sources[name, runtime] = (Timed(runner), spec)
    pictures: dict[tuple[str, str], list[float]] = defaultdict(list)
    for seed, caption in enumerate(held_out_captions(rounds + 1)):
        for key, (runner, spec) in sources.items():
            request = SampleRequest(caption.text, "", steps[key[0]], seed, spec.guidance_scale)
            started = time.perf_counter()
            sample(runner, spec, request)
            pictures[key].append(time.perf_counter() - started)
            if seed == 0:  # the first picture warms up
                pictures[key].clear()
                runner.seconds.clear()
    print(f"| ms, median of {rounds} rounds | steps | {' | '.join(COMPONENTS)} | picture |")
    print("|---|---|---|---|---|---|")
    for (name, runtime), (runner, _) in sources.items():
        calls = [statistics.median(runner.seconds[part]) for part in COMPONENTS]
        cells = [f"{1e3 * value:.1f}" for value in (*calls, statistics.median(pictures[name, runtime]))]
        print(f"| `{name}`, {runtime} | {steps[name]} | {' | '.join(cells)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("android", type=Path)
    parser.add_argument("android_mobile", type=Path)
    given = parser.parse_args()
    main(given.rounds, given.threads, {"shapes-64": given.android, "shapes-64-mobile": given.android_mobile})
