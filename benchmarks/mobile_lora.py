"""Pictures of `shapes-64-mobile` in one call, without and with the LoRA that ships.

    python -m benchmarks.mobile_lora OUTPUT.png

Rows, of the same held-out captions and seeds: the UNet alone; with the LoRA. A red frame marks a caption that was not
obeyed. Prints also what of the style is left of renderings after each autoencoder, and how many are still read.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sdmobile.basics.metrics import to_pixels
from sdmobile.checkpoints import LoraFile, load_model, open_checkpoint
from sdmobile.checkpoints.bundled import bundled_path
from sdmobile.checkpoints.changes import Changes
from sdmobile.checkpoints.shapes64.checker import compare
from sdmobile.checkpoints.shapes64.held_out import held_out_captions, held_out_scenes
from sdmobile.checkpoints.shapes64.styles import hollowness, render_hollow
from sdmobile.training.evaluate import Judged, drawer, picture_grid

COUNT = 8
RENDERED = 200
NAME = Path("shapes-64-mobile")


def say_what_autoencoders_keep() -> None:
    """Prints style and captions obeyed of renderings in the style, as they are and through each autoencoder."""
    scenes, captions = zip(*held_out_scenes(RENDERED), strict=True)
    rendered = [render_hollow(scene) for scene in scenes]
    pixels = torch.from_numpy(np.stack(rendered)).permute(0, 3, 1, 2).float() / 127.5 - 1
    sets = {"renderings": rendered}
    for name in ("shapes-64", "shapes-64-mobile"):
        vae: Any = load_model(open_checkpoint(Path(name)), "vae")
        with torch.no_grad():
            kept = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
        sets[f"through {name}"] = [to_pixels(one[None].numpy()) for one in kept]
    for name, images in sets.items():
        score = np.mean([hollowness(image) for image in images])
        read = sum(not compare(image, caption.claims)[0] for image, caption in zip(images, captions, strict=True))
        print(f"{name}: {score:.2f} of the style, {read} of {RENDERED} captions read")


def main(output: Path) -> None:
    """Writes the picture and prints what each row obeyed."""
    captions = held_out_captions(COUNT)
    lora = LoraFile(bundled_path(NAME / "adapters" / "hollow.safetensors"))
    judged: list[Judged] = []
    for loras in ((), (lora,)):
        draw, _ = drawer(NAME, "torch", None, None, Changes(loras))
        images = draw([caption.text for caption in captions], range(COUNT), ())
        row = [Judged(one, image, *compare(image, one.claims)) for one, image in zip(captions, images, strict=True)]
        print(f"{len(loras)} LoRAs: {sum(not one.wrong for one in row)} of {COUNT} captions obeyed")
        judged += row
    say_what_autoencoders_keep()
    output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture_grid(judged, columns=COUNT)).save(output)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
