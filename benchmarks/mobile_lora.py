"""Pictures of `shapes-64-mobile` in one call, without and with the LoRA that ships.

    python -m benchmarks.mobile_lora OUTPUT.png

Rows, of the same held-out captions and seeds: the UNet alone; with the LoRA. A red frame marks a caption that was not
obeyed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from sdmobile.checkpoints import Changes, LoraFile
from sdmobile.checkpoints.bundled import bundled_path
from sdmobile.checkpoints.shapes64.checker import compare
from sdmobile.checkpoints.shapes64.held_out import held_out_captions
from sdmobile.training.evaluate import Judged, drawer, picture_grid

COUNT = 8
NAME = Path("shapes-64-mobile")


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
    output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture_grid(judged, columns=COUNT)).save(output)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
