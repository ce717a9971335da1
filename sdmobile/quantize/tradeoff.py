"""The size-quality curve of one component: uniform recipes and mixed ones on prompts that no search has seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.basics.metrics import image_psnr, json_number, psnr
from sdmobile.basics.svg import Axis, Canvas, round_ticks
from sdmobile.checkpoints.shapes64.obedience import CAPTIONED, has_captions, read_caption
from sdmobile.quantize.schemes import Float16

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.formats.bundle.contracts import Geometry
    from sdmobile.quantize.recipes import Recipe
    from sdmobile.quantize.sensitivity_study import EncodedWeights, Quality, Study
    from sdmobile.quantize.sensitivity_work import Tell
    from sdmobile.reference.sampling import SampleRequest, SampleResult
    from sdmobile.runtimes.base import Arrays


class Kind(str, Enum):
    """What the layers of a recipe share: all one scheme, several, or float16 everywhere."""

    UNIFORM = "uniform"
    MIXED = "mixed"
    UNCOMPRESSED = "uncompressed"


_COLOURS = {Kind.UNIFORM: "#b3541e", Kind.MIXED: "#1f5fa8"}


@dataclass(frozen=True)
class Point:
    """One recipe on the curve.

    Args:
        name: of the recipe.
        kind: whether it is a mixed one.
        megabytes: all weights of the component, those that stay float16 included, in 10⁶ bytes.
        bits: stored bits, tables and scales included, per weight of the layers that recipes are about.
        output_db: PSNR of the component's output on recorded inputs of held-out prompts, over all of them.
        worst_db: the least of one input.
        latent_db: PSNR between final latents, over all pictures; None where no picture was made.
        image_db: mean PSNR of the final images.
        obeyed: captions obeyed; None where nobody can judge.
        pictures: how many were made.
    """

    name: str
    kind: Kind
    megabytes: float
    bits: float
    output_db: float
    worst_db: float
    latent_db: float | None = None
    image_db: float | None = None
    obeyed: int | None = None
    pictures: int = 0

    def to_json(self) -> dict[str, Any]:
        """Returns the figures; null where there is none."""
        return {
            **{k: json_number(v) if isinstance(v, float) else v for k, v in asdict(self).items()},
            "kind": self.kind.value,
        }


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures of the exact component, which those of compressed ones are compared with.

    Args:
        checkpoint: the opened checkpoint.
        requests: held-out prompts and seeds.
        runs: float32 torch's results.
    """

    checkpoint: Checkpoint
    requests: tuple[SampleRequest, ...]
    runs: tuple[SampleResult, ...]


class StudyRunner:
    """A runner of float32 torch with one component replaced by the one under study.

    Args:
        checkpoint: computes the others.
        study: its module runs with the weights that it has when called.
        geometry: sizes of the pipeline.
    """

    def __init__(self, checkpoint: Checkpoint, study: Study, geometry: Geometry) -> None:
        from sdmobile.reference.torch_runner import TorchRunner

        self._exact = TorchRunner(checkpoint, geometry)
        self._study = study
        self._output = checkpoint.family.component(study.component).outputs[0].name

    @property
    def name(self) -> str:
        """`torch`, with compressed weights."""
        return "torch, compressed weights"

    @property
    def components(self) -> tuple[str, ...]:
        """Every canonical component."""
        return self._exact.components

    def run(self, component: str, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Returns the canonical outputs of one component."""
        if component != self._study.component:
            return self._exact.run(component, inputs)
        import torch

        tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in inputs.values()]
        with torch.inference_mode():
            return {self._output: self._study.module(*tensors).numpy()}

    def release(self, component: str | None = None) -> None:
        """Frees the others' modules."""
        self._exact.release(component)


def exact_pictures(
    checkpoint: Checkpoint, study: Study, requests: Sequence[SampleRequest], tell: Tell
) -> Pictures | None:
    """Draws the reference's pictures; None where no request was made."""
    if not requests:
        return None
    return Pictures(checkpoint, tuple(requests), tuple(_drawn(checkpoint, study, requests, tell)))


def measure_point(
    study: Study,
    encoded: EncodedWeights,
    exact: Sequence[NDArray[np.float32]],
    recipe: Recipe,
    pictures: Pictures | None,
    tell: Tell,
) -> Point:
    """Measures one recipe with its weights as the phone sees them, in float32 arithmetic.

    Args:
        study: the component with recorded inputs of held-out prompts.
        encoded: compressed weights.
        exact: `study.outputs()` with the exact weights.
        recipe: what is measured.
        pictures: the exact ones; None to make none.
        tell: sees (what, finished, all).
    """
    weights, size = encoded.of_recipe(recipe)
    elements = sum(weight.numel() for weight in study.layers.values())
    rest = sum(parameter.numel() for parameter in study.module.parameters()) - elements
    quality: Quality = study.quality(exact, weights)
    kind = _kind(recipe)
    point = Point(recipe.name, kind, (size + 2 * rest) / 1e6, 8 * size / elements, quality.psnr_db, quality.worst_db)
    if pictures is None:
        return point
    with study.replaced(weights):
        runs = _drawn(
            pictures.checkpoint, study, pictures.requests, lambda _, i, n: tell(f"{recipe.name}: pictures", i, n)
        )
    return Point(**{**asdict(point), **_picture_figures(pictures, runs)})


def _kind(recipe: Recipe) -> Kind:
    if recipe.schemes() == (Float16(),):
        return Kind.UNCOMPRESSED
    return Kind.MIXED if len(recipe.schemes()) > 1 else Kind.UNIFORM


def _drawn(checkpoint: Checkpoint, study: Study, requests: Sequence[SampleRequest], tell: Tell) -> list[SampleResult]:
    from sdmobile.reference.pipeline import PipelineSpec
    from sdmobile.reference.sampling import sample_all

    spec = PipelineSpec.from_checkpoint(checkpoint)
    runner = StudyRunner(checkpoint, study, spec.geometry)
    return sample_all(runner, spec, requests, on_step=lambda i, n: tell("pictures", i, n))


def _picture_figures(pictures: Pictures, runs: Sequence[SampleResult]) -> dict[str, Any]:
    pairs = list(zip(pictures.runs, runs, strict=True))
    latents = [np.stack([run[side].latents[-1] for run in pairs]) for side in (0, 1)]
    levels = [image_psnr(exact.image, compressed.image) for exact, compressed in pairs]
    return {
        "latent_db": psnr(latents[0], latents[1]),
        "image_db": math.nan if any(map(math.isnan, levels)) else float(np.mean(levels)),
        "obeyed": obeyed(pictures.checkpoint, runs),
        "pictures": len(pairs),
    }


def obeyed(checkpoint: Checkpoint, runs: Sequence[SampleResult]) -> int | None:
    """Returns how many pictures show what their captions say, or None where captions cannot be judged."""
    from sdmobile.basics.metrics import to_pixels
    from sdmobile.checkpoints.shapes64.checker import complaints
    from sdmobile.reference.pipeline import PipelineSpec

    if checkpoint.name != CAPTIONED or not has_captions(
        checkpoint.name, PipelineSpec.from_checkpoint(checkpoint).geometry
    ):
        return None
    claims = [read_caption(run.request.prompt) for run in runs]
    if any(claim is None for claim in claims):
        return None
    judged = zip(runs, claims, strict=True)
    return sum(not complaints(to_pixels(run.image), claim) for run, claim in judged if claim is not None)


def gain_over_uniform(points: Sequence[Point], point: Point) -> float | None:
    """Returns by how many dB a point is above the best uniform recipe of its size.

    Between two uniform recipes the PSNR is interpolated linearly in the size, on the upper envelope; a uniform recipe
    that is no larger counts as it is. None where the point is smaller than every uniform one.
    """
    uniform = sorted((p.megabytes, p.output_db) for p in points if p.kind is Kind.UNIFORM)
    smaller = [pair for pair in uniform if pair[0] <= point.megabytes]
    if not smaller:
        return None
    best = max(level for _, level in smaller)
    for low in smaller:
        for high in (pair for pair in uniform if pair[0] > point.megabytes):
            share = (point.megabytes - low[0]) / (high[0] - low[0])
            best = max(best, low[1] + share * (high[1] - low[1]))
    return point.output_db - best


def markdown(points: Sequence[Point]) -> str:
    """Returns the curve as a Markdown table, the smallest first."""
    lines = [
        "| recipe | MB | bits | output dB | worst | over uniform | latent dB | image dB | captions |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for point in sorted(points, key=lambda p: p.megabytes):
        gain = gain_over_uniform(points, point) if point.kind is Kind.MIXED else None
        captions = "–" if point.obeyed is None else f"{point.obeyed}/{point.pictures}"
        levels = " | ".join(_decibels(v) for v in (point.output_db, point.worst_db))
        later = " | ".join(_decibels(v) for v in (point.latent_db, point.image_db))
        over = "–" if gain is None else f"{gain:+.1f}"
        lines.append(
            f"| {point.name} | {point.megabytes:.2f} | {point.bits:.2f} | {levels} | {over} | {later} | {captions} |"
        )
    return "\n".join(lines) + "\n"


def _decibels(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.1f}"


def curve_svg(points: Sequence[Point], title: str) -> str:
    """Returns the plot of output PSNR over size; lines join palettes of one table per tensor, and mixed recipes."""
    known = [point for point in points if math.isfinite(point.output_db) and point.kind in _COLOURS]
    sizes, levels = [p.megabytes for p in known] or [0.0], [p.output_db for p in known] or [0.0]
    across = Axis(round_ticks(0.0, max(sizes)), "weights of the component, MB")
    canvas = Canvas(title, across, Axis(round_ticks(min(levels), max(levels)), "PSNR, dB"))
    for kind, colour in _COLOURS.items():
        line = sorted((p for p in known if _joined(p) and p.kind == kind), key=lambda p: p.megabytes)
        canvas.line([(p.megabytes, p.output_db) for p in line], colour)
        for point in (p for p in known if p.kind == kind):
            tip = f"{point.name}: {point.megabytes:.2f} MB, {point.bits:.2f} bits, {point.output_db:.1f} dB"
            canvas.mark(point.megabytes, point.output_db, 3.5, colour, tip)
            canvas.text(point.megabytes, point.output_db, point.name, above=8 if kind is Kind.MIXED else -16)
    return canvas.svg()


def _joined(point: Point) -> bool:
    """Whether a line leads through the point: other families, such as linear ones, are marks alone."""
    return point.kind is Kind.MIXED or (point.name.startswith("palette") and point.name[len("palette") :].isdigit())
