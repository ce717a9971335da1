"""Pictures of `shapes-64-mobile` with its adapters, all of one call.

    python -m benchmarks.mobile_adapters RUN OUTPUT.png

RUN is the folder of `sdmobile train mobile`, for the inpainting UNet, which does not ship. Rows, of the same held-out
captions: the silhouettes; drawn with the ControlNet; with the plugin; renderings of which one shape is masked; what is
repainted there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from sdmobile.basics.metrics import to_pixels
from sdmobile.checkpoints.control import ControlFolder
from sdmobile.checkpoints.shapes64.checker import compare
from sdmobile.checkpoints.shapes64.held_out import held_out_scenes
from sdmobile.checkpoints.shapes64.scenes import render, silhouette
from sdmobile.families.edit import Edit
from sdmobile.reference.sampling import SampleRequest, sample
from sdmobile.reference.source import open_source
from sdmobile.training.evaluate import Judged, drawer, picture_grid
from sdmobile.training.mobile.inpaint import shape_mask

COUNT = 8
NAME = Path("shapes-64-mobile")


def repainted(source: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns renderings with a grey mask on one shape, and what the inpainting UNet draws there in one call."""
    runner, spec, _ = open_source(source, "torch")
    masked, drawn = [], []
    for seed, (scene, caption) in enumerate(held_out_scenes(COUNT)):
        picture, mask = render(scene), shape_mask(scene.items[0])
        masked.append(np.where(mask[..., None] > 0.5, 128, picture).astype(np.uint8))
        pixels = picture.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1
        request = SampleRequest(caption.text, "", 1, seed, spec.guidance_scale, edit=Edit(pixels, mask[None, None]))
        drawn.append(to_pixels(sample(runner, spec, request).image))
    return masked, drawn


def main(run: Path, output: Path) -> None:
    """Writes the picture and prints what each drawn row obeyed."""
    scenes, captions = zip(*held_out_scenes(COUNT), strict=True)
    conditions = [silhouette(scene) for scene in scenes]
    texts = [caption.text for caption in captions]
    rows: list[tuple[str, list[np.ndarray], bool]] = [("silhouette", conditions, False)]
    for adapter in ("silhouette", "silhouette-plugin"):
        draw, _ = drawer(NAME, "torch", 1, None, controls=[ControlFolder(NAME / "adapters" / adapter)])
        rows.append((adapter, list(draw(texts, range(COUNT), conditions)), True))
    masked, drawn = repainted(run / "checkpoint-inpaint-adversarial")
    rows += [("masked", masked, False), ("repainted", drawn, True)]
    judged: list[Judged] = []
    for name, images, asked in rows:
        row = [
            Judged(caption, image, *(compare(image, caption.claims) if asked else ([], 0)))
            for caption, image in zip(captions, images, strict=True)
        ]
        judged += row
        if asked:
            print(f"{name}: {sum(not one.wrong for one in row)} of {COUNT} captions obeyed")
    output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture_grid(judged, columns=COUNT)).save(output)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
