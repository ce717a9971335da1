"""Pictures and the trajectory plot, as text that an HTML file can hold."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 12, 44
DASHES = ("none", "7 4", "2 3", "9 3 2 3")


@dataclass(frozen=True)
class Curve:
    """One line of the plot.

    Args:
        label: for the legend and the tooltip.
        colour: number of the colour, one per runtime.
        dash: number of the dash pattern, one per prompt.
        values: dB per step; None leaves a gap.
    """

    label: str
    colour: int
    dash: int
    values: Sequence[float | None]


def png_bytes(image: NDArray[np.float32], texts: Mapping[str, str] | None = None) -> bytes:
    """Returns a decoder output [1, 3, H, W] in [−1, 1] as a PNG, with `texts` as its text chunks."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from sdmobile.basics.metrics import to_pixels

    info = PngInfo()
    for key, text in (texts or {}).items():
        # tEXt holds Latin-1 only; iTXt holds any prompt.
        if text.isascii():
            info.add_text(key, text)
        else:
            info.add_itxt(key, text)
    stream = io.BytesIO()
    Image.fromarray(to_pixels(image)).save(stream, format="PNG", optimize=True, pnginfo=info)
    return stream.getvalue()


def png_data_uri(image: NDArray[np.float32]) -> str:
    """Returns a decoder output [1, 3, H, W] in [−1, 1] as the data URI of a PNG."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(image)).decode("ascii")


@dataclass(frozen=True)
class _Axes:
    """Maps (step, dB) to the drawing; dB from `low` to `high` with a line every `spacing`."""

    steps: int
    low: float
    high: float
    spacing: float

    def x(self, step: int) -> float:
        """Returns the abscissa of a step counted from 0."""
        return LEFT + (WIDTH - LEFT - RIGHT) * (step / (self.steps - 1) if self.steps > 1 else 0.5)

    def y(self, value: float) -> float:
        """Returns the ordinate of a level in dB."""
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - self.low) / (self.high - self.low)


def trajectory_svg(curves: Sequence[Curve]) -> str:
    """Plots the PSNR of the latent against the step as inline SVG, coloured by the page's style sheet.

    Returns an empty string where there is nothing to plot.
    """
    known = [value for curve in curves for value in curve.values if value is not None]
    if not known:
        return ""
    axes = _Axes(max(len(curve.values) for curve in curves), *_ticks(min(known), max(known)))
    label = "PSNR of the latent in dB after each scheduler step"
    drawn = "".join([*_grid(axes), *(_curve(curve, axes) for curve in curves)])
    return f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{drawn}</svg>'


def _grid(axes: _Axes) -> list[str]:
    parts = []
    for i in range(round((axes.high - axes.low) / axes.spacing) + 1):
        value = axes.low + i * axes.spacing
        y = axes.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{value:g} dB", "end"))
    every = max(1, math.ceil(axes.steps / 10))
    parts += [_text(axes.x(step), HEIGHT - BOTTOM + 18, str(step + 1)) for step in range(0, axes.steps, every)]
    return [*parts, _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, "step")]


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _curve(curve: Curve, axes: _Axes) -> str:
    marks, path, pen_down = [], [], False
    for step, value in enumerate(curve.values):
        if value is None:
            pen_down = False
            continue
        x, y = f"{axes.x(step):.1f}", f"{axes.y(value):.1f}"
        path.append(f"{'L' if pen_down else 'M'}{x} {y}")
        pen_down = True
        title = f"{escape(curve.label)}, step {step + 1}: {value:.1f} dB"
        marks.append(f'<circle cx="{x}" cy="{y}" r="2.6"><title>{title}</title></circle>')
    dash = DASHES[curve.dash % len(DASHES)]
    line = f'<path d="{"".join(path)}" fill="none" stroke-dasharray="{dash}"/>'
    return f'<g class="curve c{curve.colour % 4}">{line}{"".join(marks)}</g>'


def _ticks(low: float, high: float) -> tuple[float, float, float]:
    """Returns the ends and the spacing of an axis with round numbers that covers both values."""
    span = max(high - low, 5.0)
    spacing = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200) if span / step <= 6)
    start = math.floor(low / spacing) * spacing
    end = math.ceil(high / spacing) * spacing
    return start, (end if end > start else start + spacing), spacing
