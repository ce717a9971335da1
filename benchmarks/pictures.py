"""Draws the same held-out prompts and seeds by PyTorch and by the files of both phones, for the README.

    python benchmarks/pictures.py BUNDLE_IOS BUNDLE_ANDROID OUTPUT.png

Rows: PyTorch in float32, the Core ML packages (evaluator, float16-rounded), the LiteRT files.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sdmobile.checkpoints.shapes64.checker import compare
from sdmobile.checkpoints.shapes64.held_out import held_out_captions
from sdmobile.training.evaluate import Judged, drawer, picture_grid

COUNT = 8


def draw_rows(sources: Sequence[tuple[Path | None, str, int]], output: Path) -> None:
    """Writes the picture and prints the prompts with what each row obeyed.

    Args:
        sources: of every row: checkpoint or bundle, runtime, sampling steps.
        output: a PNG file.
    """
    captions = held_out_captions(COUNT)
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
    phone_ios, phone_android, picture = map(Path, sys.argv[1:4])
    draw_rows([(None, "torch", 20), (phone_ios, "evaluator-fp16", 20), (phone_android, "litert", 20)], picture)
