"""How many held-out prompts a checkpoint obeys, judged by the independent checker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sdmobile.training.checker import complaints
from sdmobile.training.data import held_out_captions

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sdmobile.training.captions import Caption

BATCH = 25


@dataclass(frozen=True)
class Judged:
    """One prompt, the picture made for it and what is wrong with it."""

    caption: Caption
    image: np.ndarray
    wrong: list[str]


@dataclass(frozen=True)
class Obedience:
    """The figure and everything behind it."""

    judged: list[Judged]
    settings: dict[str, Any]

    @property
    def obeyed(self) -> int:
        """Number of prompts whose claims all hold."""
        return sum(not one.wrong for one in self.judged)

    def to_json(self) -> dict[str, Any]:
        """Returns the figure, the settings and every prompt with its complaints."""
        prompts = [{"prompt": one.caption.text, "wrong": one.wrong} for one in self.judged]
        total = len(self.judged)
        return {"obeyed": self.obeyed, "prompts": total, "share": self.obeyed / total, **self.settings, "all": prompts}


def measure_obedience(
    sample: Callable[[list[str], list[int]], np.ndarray], count: int, settings: dict[str, Any]
) -> Obedience:
    """Generates one picture per held-out prompt and checks it.

    Args:
        sample: makes uint8 [N, 64, 64, 3] pictures from prompts and seeds.
        count: number of held-out prompts; prompt i uses seed i.
        settings: what to note in the record (steps, guidance, scheduler, ...).

    Returns:
        The share of prompts obeyed, with pictures and complaints.
    """
    captions = held_out_captions(count)
    judged: list[Judged] = []
    for start in range(0, count, BATCH):
        part = captions[start : start + BATCH]
        images = sample([one.text for one in part], list(range(start, start + len(part))))
        judged += [Judged(one, image, complaints(image, one.claims)) for one, image in zip(part, images, strict=True)]
    return Obedience(judged, settings)


def diffusers_sampler(folder: str, steps: int, guidance: float) -> Callable[[list[str], list[int]], np.ndarray]:
    """Returns a sampler that runs Diffusers' own StableDiffusionPipeline on a checkpoint folder.

    Args:
        folder: the checkpoint.
        steps: sampling steps.
        guidance: classifier-free guidance scale.
    """
    import torch
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)

    def sample(prompts: list[str], seeds: list[int]) -> np.ndarray:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        output = pipeline(
            prompts, num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="np"
        )
        pictures = np.asarray(output.images)  # pyright: ignore[reportAttributeAccessIssue]
        return np.rint(pictures * 255).astype(np.uint8)

    return sample


def picture_grid(judged: list[Judged], columns: int = 8, scale: int = 2) -> np.ndarray:
    """Returns pictures side by side, uint8 [rows·H, columns·W, 3]; a red frame marks a caption not obeyed.

    Args:
        judged: what to show, row by row.
        columns: pictures per row.
        scale: enlargement by repetition.
    """
    tiles: list[np.ndarray] = []
    for one in judged:
        tile = np.kron(one.image, np.ones((scale, scale, 1), np.uint8))
        colour = (200, 0, 0) if one.wrong else (255, 255, 255)
        tiles.append(_framed(tile, colour))
    while len(tiles) % columns:
        tiles.append(np.full_like(tiles[0], 255))
    rows = [np.concatenate(tiles[start : start + columns], axis=1) for start in range(0, len(tiles), columns)]
    return np.concatenate(rows, axis=0)


def _framed(tile: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    framed = np.empty((tile.shape[0] + 4, tile.shape[1] + 4, 3), np.uint8)
    framed[:] = colour
    framed[2:-2, 2:-2] = tile
    return framed
