"""Draws the same held-out prompts and seeds by `shapes-64` at 20 steps and by `shapes-64-mobile` at fewer.

    python -m benchmarks.mobile_pictures RUN BUNDLE_IOS BUNDLE_ANDROID OUTPUT.png

RUN is the folder of `sdmobile train mobile`; the bundles are exports of `shapes-64-mobile`. Rows: `shapes-64` at 20
guided steps; stage "guidance" at 8 calls, "progressive-2" at 2 and `shapes-64-mobile` at 1, by PyTorch; the last at 1
by the Core ML packages (evaluator, float16-rounded) and by the LiteRT files.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.pictures import draw_rows

if __name__ == "__main__":
    run, ios, android, output = map(Path, sys.argv[1:5])
    draw_rows(
        [
            (None, "torch", 20),
            (run / "checkpoint-guidance", "torch", 8),
            (run / "checkpoint-progressive-2", "torch", 2),
            (Path("shapes-64-mobile"), "torch", 1),
            (ios, "evaluator-fp16", 1),
            (android, "litert", 1),
        ],
        output,
    )
