"""The size-quality curve as an SVG file that needs nothing around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdmobile.quantize.tradeoff import Point

_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 40, 52
_COLOURS = {"uniform": "#b3541e", "mixed": "#1f5fa8"}
_STYLE = "font:12px system-ui,sans-serif;fill:#333"


def curve_svg(points: Sequence[Point], title: str) -> str:
    """Returns the plot of output PSNR over size; lines join palettes of one table per tensor, and mixed recipes."""
    known = [point for point in points if math.isfinite(point.output_db) and point.kind in _COLOURS]
    sizes, levels = [p.megabytes for p in known] or [0.0], [p.output_db for p in known] or [0.0]
    across, up = _ticks(0.0, max(sizes)), _ticks(min(levels), max(levels))
    frame = _Frame(across, up)
    parts = [_text(_LEFT, 22, title, "start", "font-weight:600")]
    parts += [p for tick in up for p in (_rule(frame.y(tick)), _text(_LEFT - 8, frame.y(tick) + 4, f"{tick:g}", "end"))]
    parts += [_text(frame.x(tick), _HEIGHT - _BOTTOM + 18, f"{tick:g}") for tick in across]
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 12, "weights of the component, MB"))
    parts.append(_text(_LEFT - 8, _TOP - 6, "PSNR, dB", "end"))
    for kind, colour in _COLOURS.items():
        line = sorted((p for p in known if _joined(p) and p.kind == kind), key=lambda p: p.megabytes)
        path = " ".join(f"{frame.x(p.megabytes):.1f},{frame.y(p.output_db):.1f}" for p in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        parts += [_mark(frame, p, colour) for p in known if p.kind == kind]
    box = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
    back = f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>{back}{"".join(parts)}</svg>\n'


class _Frame:
    """Maps sizes and levels to the plane."""

    def __init__(self, across: Sequence[float], up: Sequence[float]) -> None:
        self._across, self._up = (across[0], across[-1]), (up[0], up[-1])

    def x(self, value: float) -> float:
        low, high = self._across
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self._up
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - low) / (high - low)


def _joined(point: Point) -> bool:
    """Whether a line leads through the point: other families, such as linear ones, are marks alone."""
    return point.kind == "mixed" or (point.name.startswith("palette") and point.name[len("palette") :].isdigit())


def _mark(frame: _Frame, point: Point, colour: str) -> str:
    x, y = frame.x(point.megabytes), frame.y(point.output_db)
    tip = escape(f"{point.name}: {point.megabytes:.2f} MB, {point.bits:.2f} bits, {point.output_db:.1f} dB")
    side = -8 if point.kind == "mixed" else 16
    dot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"><title>{tip}</title></circle>'
    return dot + _text(x, y + side, point.name)


def _rule(y: float) -> str:
    return f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'


def _text(x: float, y: float, text: str, anchor: str = "middle", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="{_STYLE};{more}">{escape(text)}</text>'


def _ticks(low: float, high: float) -> list[float]:
    """Returns at most eight round numbers that cover both ends."""
    span = max(high - low, 1e-9)
    power = 10.0 ** math.floor(math.log10(span / 7))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if span / (power * factor) <= 7)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]
