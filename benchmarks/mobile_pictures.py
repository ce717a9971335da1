"""Draws the same prompts and seeds by `shapes-64` at 20 steps and by stages of `shapes-64-mobile` at fewer.

    python benchmarks/mobile_pictures.py RUN BUNDLE_IOS BUNDLE_ANDROID OUTPUT.png

RUN is the folder of `sdmobile train mobile`; the bundles are of its one-step checkpoint. Rows: `shapes-64` at 20 steps
with guidance; stage "guidance" at 8 calls, "progressive-2" at 2, the shipped one at 1, by PyTorch; the shipped one at 1
by the Core ML packages (evaluator, float16-rounded) and by the LiteRT files.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from sdmobile.checkpoints import bundled_checkpoint
from sdmobile.checkpoints.shapes64.checker import compare
from sdmobile.checkpoints.shapes64.held_out import held_out_captions
from sdmobile.training.evaluate import Judged, drawer, picture_grid

COUNT = 8


def main(run: Path, ios: Path, android: Path, output: Path) -> None:
    """Writes the picture and prints the prompts with what each row obeyed."""
    captions = held_out_captions(COUNT)
    mobile = bundled_checkpoint("shapes-64-mobile")
    sources = [
        (None, "torch", 20),
        (run / "checkpoint-guidance", "torch", 8),
        (run / "checkpoint-progressive-2", "torch", 2),
        (mobile, "torch", 1),
        (ios, "evaluator-fp16", 1),
        (android, "litert", 1),
    ]
    rows: list[Judged] = []
    for source, runtime, steps in sources:
        draw, _ = drawer(source, runtime, steps=steps, guidance=None)
        images = draw([one.text for one in captions], range(COUNT), ())
        rows += [Judged(one, image, *compare(image, one.claims)) for one, image in zip(captions, images, strict=True)]
    output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(picture_grid(rows, columns=COUNT))).save(output)
    for seed, one in enumerate(captions):
        obeyed = ["no" if rows[seed + COUNT * row].wrong else "yes" for row in range(len(sources))]
        print(f"seed {seed}: {one.text}: {', '.join(obeyed)}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:5]))
