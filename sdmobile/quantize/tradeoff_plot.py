"""The size-quality curve as an SVG file that needs nothing around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdmobile.basics.svg import Axis, Canvas, round_ticks

if TYPE_CHECKING:
    from sdmobile.quantize.tradeoff import Point

_COLOURS = {"uniform": "#b3541e", "mixed": "#1f5fa8"}


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
            canvas.text(point.megabytes, point.output_db, point.name, above=8 if kind == "mixed" else -16)
    return canvas.svg()


def _joined(point: Point) -> bool:
    """Whether a line leads through the point: other families, such as linear ones, are marks alone."""
    return point.kind == "mixed" or (point.name.startswith("palette") and point.name[len("palette") :].isdigit())
