"""How well an inpainting checkpoint repaints a shape that a caption speaks of, and leaves the rest as it was."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.basics.metrics import to_pixels
from sdmobile.checkpoints.changes import UNCHANGED, Changes
from sdmobile.checkpoints.shapes64.checker import compare
from sdmobile.checkpoints.shapes64.held_out import held_out_scenes
from sdmobile.checkpoints.shapes64.scenes import render
from sdmobile.errors import UnsupportedError
from sdmobile.families.edit import Edit
from sdmobile.reference.sampling import SampleRequest, sample
from sdmobile.reference.source import open_source
from sdmobile.training.evaluate import Judged, Obedience, picture_grid, require_size
from sdmobile.training.mobile.inpaint import shape_mask

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def evaluate_inpainting(
    source: Path,
    output: Path,
    report: Callable[[int, int], None],
    prompts: int,
    steps: int | None,
    guidance: float | None = None,
    runtime: str = "auto",
    changes: Changes = UNCHANGED,
) -> dict[str, Any]:
    """Repaints the first shape of renderings and judges the pictures; writes `obedience.json` and `samples.png`.

    Args:
        source: inpainting checkpoint or bundle.
        output: where the two files go.
        report: called with pictures done and all.
        prompts: number of held-out captions; caption i uses seed i.
        steps: sampling steps; None for the checkpoint's own.
        guidance: classifier-free guidance scale; likewise.
        runtime: "auto" or a runtime of the bundle.
        changes: put on top of a checkpoint.

    Returns:
        The record: obedience of whole pictures, and the mean absolute difference in levels outside of the masks, which
        the autoencoder has a part in.

    Raises:
        UnsupportedError: the model does not repaint, or draws pictures of another size.
    """
    from PIL import Image

    runner, spec, model_hash = open_source(source, runtime, changes=changes)
    require_size(spec, source)
    if not spec.family.takes_mask:
        raise UnsupportedError("only an inpainting model can be judged by what it repaints", spec.family.title)
    scale = spec.guidance_scale if guidance is None else guidance
    steps = spec.steps if steps is None else steps
    judged: list[Judged] = []
    outside: list[float] = []
    for seed, (scene, caption) in enumerate(held_out_scenes(prompts)):
        picture, mask = render(scene), shape_mask(scene.items[0])
        pixels = picture.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1
        request = SampleRequest(caption.text, "", steps, seed, scale, edit=Edit(pixels, mask[None, None]))
        image = to_pixels(sample(runner, spec, request).image)
        judged.append(Judged(caption, image, *compare(image, caption.claims)))
        outside.append(float(np.abs(image.astype(np.float64) - picture)[mask < 0.5].mean()))
        report(len(judged), prompts)
    settings = {"steps": steps, "guidance": scale, "runtime": runner.name, "model_hash": model_hash}
    record = {"outside_of_the_mask": float(np.mean(outside)), **Obedience(judged, settings).to_json()}
    output.mkdir(parents=True, exist_ok=True)
    (output / "obedience.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    Image.fromarray(picture_grid(judged[:48])).save(output / "samples.png")
    return record
