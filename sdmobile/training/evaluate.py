"""How many held-out prompts a checkpoint obeys, judged by the independent checker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sdmobile.checkpoints.changes import UNCHANGED, Changes
from sdmobile.checkpoints.shapes64.checker import compare, outline
from sdmobile.checkpoints.shapes64.held_out import held_out_scenes
from sdmobile.checkpoints.shapes64.scenes import IMAGE_SIZE, silhouette
from sdmobile.errors import UnsupportedError
from sdmobile.families.control import controls_to_json
from sdmobile.training.quality import wilson_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import Any

    from sdmobile.checkpoints.control import ControlFolder
    from sdmobile.checkpoints.shapes64.captions import Caption
    from sdmobile.reference.pipeline import PipelineSpec

    Draw = Callable[[Sequence[str], Sequence[int], Sequence[np.ndarray]], Sequence[np.ndarray]]
    """Makes uint8 [64, 64, 3] pictures from prompts and seeds, and silhouettes where they are controlled."""

BATCH = 16
"""Pictures that are drawn at once."""


@dataclass(frozen=True)
class Judged:
    """One prompt, the picture made for it, what is wrong, how many claims fail; how the silhouette is covered."""

    caption: Caption
    image: np.ndarray
    wrong: list[str]
    failed: int
    iou: float | None = None


@dataclass(frozen=True)
class Obedience:
    """The figure and everything behind it."""

    judged: list[Judged]
    settings: dict[str, Any]

    @property
    def obeyed(self) -> int:
        """Number of prompts whose claims all hold."""
        return sum(not picture.wrong for picture in self.judged)

    @property
    def claims(self) -> float:
        """Share of all claims that hold: a caption makes one to three."""
        return 1 - sum(one.failed for one in self.judged) / sum(one.caption.claims.count for one in self.judged)

    @property
    def iou(self) -> float | None:
        """Mean `overlap` of the pictures with the silhouettes of their scenes; None where it was not measured."""
        found = [one.iou for one in self.judged if one.iou is not None]
        return sum(found) / len(found) if found else None

    def to_json(self) -> dict[str, Any]:
        """Returns the figures with their 95 % interval, the settings and every prompt with its complaints."""
        prompts: list[dict[str, Any]] = [{"prompt": one.caption.text, "wrong": one.wrong} for one in self.judged]
        total = len(self.judged)
        figures: dict[str, Any] = {"obeyed": self.obeyed, "prompts": total, "share": self.obeyed / total}
        figures["claims"] = self.claims
        if self.iou is not None:
            figures["iou"] = self.iou
            prompts = [{**said, "iou": one.iou} for said, one in zip(prompts, self.judged, strict=True)]
        return {**figures, "interval_95": wilson_interval(self.obeyed, total), **self.settings, "all": prompts}


def draw_all(
    draw: Draw, prompts: Sequence[str], seeds: Sequence[int], conditions: Sequence[np.ndarray] = ()
) -> Iterator[np.ndarray]:
    """Yields a picture for every prompt with its seed, and its condition where there are any, `BATCH` at a time."""
    for start in range(0, len(prompts), BATCH):
        part = slice(start, start + BATCH)
        yield from draw(prompts[part], seeds[part], conditions[part])


def overlap(image: np.ndarray, condition: np.ndarray) -> float:
    """Returns |A ∩ B| / |A ∪ B| of where a picture shows a shape and where a silhouette is white; 1 of nothing.

    Args:
        image: uint8 [64, 64, 3], RGB; its outline is read by the checker, which shares no code with the renderer.
        condition: the silhouette, uint8 [64, 64, 3].
    """
    drawn, wanted = outline(image), condition[..., 0] > 127
    union = int((drawn | wanted).sum())
    return int((drawn & wanted).sum()) / union if union else 1.0


def measure_obedience(
    draw: Draw,
    count: int,
    settings: dict[str, Any],
    progress: Callable[[int, int], None],
    controlled: bool = False,
) -> Obedience:
    """Draws one picture per held-out prompt and checks it.

    Args:
        draw: makes the pictures, of silhouettes where they are controlled.
        count: number of held-out prompts; prompt i uses seed i.
        settings: what to note in the record (steps, guidance, scheduler, ...).
        progress: called with pictures done and all.
        controlled: give the silhouette of the prompt's scene too.

    Returns:
        The share of prompts obeyed, with pictures, complaints, and how the silhouettes are covered.
    """
    judged: list[Judged] = []
    pairs = held_out_scenes(count)
    captions = [caption for _, caption in pairs]
    silhouettes = [silhouette(scene) for scene, _ in pairs]
    texts = [caption.text for caption in captions]
    images = draw_all(draw, texts, range(count), silhouettes if controlled else [])
    for caption, image, shape in zip(captions, images, silhouettes, strict=True):
        judged.append(Judged(caption, image, *compare(image, caption.claims), overlap(image, shape)))
        progress(len(judged), count)
    return Obedience(judged, settings)


def require_size(spec: PipelineSpec, source: Path | None) -> None:
    """Raises UnsupportedError unless a model's pictures are of the size that the checker reads."""
    size = (spec.geometry.image_width, spec.geometry.image_height)
    if size != (IMAGE_SIZE, IMAGE_SIZE):
        raise UnsupportedError(
            f"only pictures of {IMAGE_SIZE} × {IMAGE_SIZE} pixels can be judged",
            f"{source}: {size[0]} × {size[1]}",
            "Give shapes-64, a checkpoint of its kind, or a bundle of one.",
        )


def drawer(
    source: Path | None,
    runtime: str,
    steps: int | None,
    guidance: float | None,
    changes: Changes = UNCHANGED,
    controls: Sequence[ControlFolder] = (),
) -> tuple[Draw, dict[str, Any]]:
    """Returns a function that draws with a checkpoint (PyTorch) or with the files of a bundle, and its settings.

    Args:
        source: checkpoint or bundle; None for the bundled checkpoint.
        runtime: "auto" or the name of a runtime, as in `sdmobile generate`.
        steps: sampling steps; None for the checkpoint's own.
        guidance: classifier-free guidance scale; likewise.
        changes: put on top of a checkpoint.
        controls: a control network, for a checkpoint; a bundle with one needs none.

    Raises:
        UnsupportedError: its pictures are not of the size that the checker reads, or it repaints pictures.
    """
    from sdmobile.basics.metrics import to_pixels
    from sdmobile.reference.batched import sample_batch
    from sdmobile.reference.condition import condition_of
    from sdmobile.reference.sampling import SampleRequest, sample
    from sdmobile.reference.source import open_source
    from sdmobile.reference.torch_runner import TorchRunner

    runner, spec, model_hash = open_source(source, runtime, changes=changes, controls=controls)
    if spec.family.takes_picture:
        raise UnsupportedError(
            "only what draws a picture from nothing is judged by prompts alone",
            spec.family.title,
            "Run: sdmobile train evaluate-inpainting" if spec.family.takes_mask else None,
        )
    require_size(spec, source)
    scale = spec.guidance_scale if guidance is None else guidance
    steps = spec.steps if steps is None else steps
    settings = {
        "steps": steps,
        "guidance": scale,
        "scheduler": spec.scheduler_config.get("_class_name"),
        "runtime": runner.name,
        "model_hash": model_hash,
        **({"changes": changes.options} if changes.options else {}),
    }
    if spec.family.controls:
        settings["control"] = controls_to_json(spec.family.controls)

    def draw(prompts: Sequence[str], seeds: Sequence[int], conditions: Sequence[np.ndarray] = ()) -> list[np.ndarray]:
        pictures = [(condition_of(pixels),) * len(spec.family.controls) for pixels in conditions] or [()] * len(prompts)
        requests = [
            SampleRequest(text, "", steps, seed, scale, control=picture)
            for text, seed, picture in zip(prompts, seeds, pictures, strict=True)
        ]
        if isinstance(runner, TorchRunner) and not spec.family.controls:
            return [to_pixels(image[None]) for image in sample_batch(runner, spec, requests)]
        return [to_pixels(sample(runner, spec, request).image) for request in requests]

    return draw, settings


def picture_grid(judged: list[Judged], columns: int = 8, scale: int = 2) -> np.ndarray:
    """Returns pictures side by side, uint8 [rows·H, columns·W, 3]; a red frame marks a caption not obeyed.

    Args:
        judged: what to show, row by row.
        columns: pictures per row.
        scale: enlargement by repetition.
    """
    tiles: list[np.ndarray] = []
    for picture in judged:
        tile = np.kron(picture.image, np.ones((scale, scale, 1), np.uint8))
        colour = (200, 0, 0) if picture.wrong else (255, 255, 255)
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
