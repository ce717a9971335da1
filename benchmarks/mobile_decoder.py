"""How near the thin decoder of `shapes-64-mobile` comes to that of `shapes-64`.

    python -m benchmarks.mobile_decoder [COUNT]

Both decode what the encoder of `shapes-64` makes of COUNT (200) renderings of held-out scenes, in PyTorch. Prints PSNR
of all pixels together, brought to [0, 1].
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from sdmobile.basics.metrics import image_psnr
from sdmobile.checkpoints import load_model, open_checkpoint
from sdmobile.checkpoints.shapes64.held_out import held_out_scenes
from sdmobile.checkpoints.shapes64.scenes import render
from sdmobile.training.data import to_tensor


@torch.no_grad()
def likeness(count: int) -> dict[str, float]:
    """Returns PSNR in decibels by what is compared, of so many renderings."""
    teacher, thin = (load_model(open_checkpoint(path), "vae") for path in (None, Path("shapes-64-mobile")))
    renderings = to_tensor([render(scene) for scene, _ in held_out_scenes(count)])
    encode: Any = teacher.encode
    latents = encode(renderings).latent_dist.mean
    models: list[Any] = [teacher, thin]
    pixels = [vae.decode(latents).sample for vae in models]
    truth, *drawn = (values.numpy() for values in (renderings, *pixels))
    single = [image_psnr(a, b) for a, b in zip(*drawn, strict=True)]
    return {
        "thin decoder to the teacher's": image_psnr(*drawn),
        "the same, worst picture": min(single),
        "teacher's decoder to the renderings": image_psnr(truth, drawn[0]),
        "thin decoder to the renderings": image_psnr(truth, drawn[1]),
    }


if __name__ == "__main__":
    for name, decibels in likeness(int(sys.argv[1]) if sys.argv[1:] else 200).items():
        print(f"{name}: {decibels:.1f} dB")
