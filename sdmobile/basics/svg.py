"""A short writer of SVG: a frame with two axes, and marks, lines, bars and words in it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

_WIDTH, _HEIGHT = 820, 470
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 24, 48, 84
_FONT = "font:12px system-ui,sans-serif;fill:#333"


@dataclass(frozen=True)
class Axis:
    """An axis from its first tick to its last.

    Args:
        ticks: where lines and numbers stand, in ascending order.
        title: beside the axis.
        logarithmic: whether distances are ratios.
        labels: whether ticks have lines and numbers.
    """

    ticks: Sequence[float]
    title: str
    logarithmic: bool = False
    labels: bool = True

    def part(self, value: float) -> float:
        """Returns where a value lies: 0 at the first tick, 1 at the last."""
        low, high = (self._place(tick) for tick in (self.ticks[0], self.ticks[-1]))
        return (self._place(value) - low) / (high - low)

    def _place(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value


@dataclass
class Canvas:
    """A plot under construction; positions are in the units of the axes.

    Args:
        title: above the plot.
        across: the horizontal axis.
        up: the vertical axis.
    """

    title: str
    across: Axis
    up: Axis
    _parts: list[str] = field(default_factory=list)

    def line(self, points: Sequence[tuple[float, float]], colour: str, dashed: bool = False) -> None:
        """Adds a line through points."""
        path = " ".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self._parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.3"{dash}/>')

    def mark(self, x: float, y: float, radius: float, colour: str, tip: str) -> None:
        """Adds a disc that says its words when pointed at."""
        place = f'cx="{self._x(x):.1f}" cy="{self._y(y):.1f}" r="{radius:.1f}"'
        look = f'fill="{colour}" fill-opacity="0.55" stroke="{colour}"'
        self._parts.append(f"<circle {place} {look}><title>{escape(tip)}</title></circle>")

    def bar(self, x: float, low: float, high: float, colour: str, name: str, label: str) -> None:
        """Adds a bar with its name below the frame and a label above it."""
        width = 0.62 * (_WIDTH - _LEFT - _RIGHT) * (self.across.part(x) - self.across.part(x - 1))
        left, top = self._x(x) - width / 2, self._y(high)
        size = f'width="{width:.1f}" height="{max(1.0, self._y(low) - top):.1f}"'
        self._parts.append(f'<rect x="{left:.1f}" y="{top:.1f}" {size} fill="{colour}"/>')
        self._parts.append(_text(self._x(x), top - 6, label))
        for number, words in enumerate(_wrapped(name, 15)):
            self._parts.append(_text(self._x(x), _HEIGHT - _BOTTOM + 18 + 14 * number, words))

    def text(self, x: float, y: float, words: str, anchor: str = "middle", above: float = 0.0) -> None:
        """Adds words at a place, or so many pixels above it."""
        self._parts.append(_text(self._x(x), self._y(y) - above, words, anchor))

    def legend(self, entries: Sequence[tuple[str, str]]) -> None:
        """Adds names with their colours, from the upper left corner down."""
        for number, (name, colour) in enumerate(entries):
            y = _TOP + 16 + 17 * number
            self._parts.append(f'<circle cx="{_LEFT + 16}" cy="{y - 4}" r="5" fill="{colour}"/>')
            self._parts.append(_text(_LEFT + 28, y, name, "start"))

    def caption(self, words: str) -> None:
        """Adds a line at the foot."""
        self._parts.append(_text(_LEFT, _HEIGHT - 10, words, "start"))

    def svg(self) -> str:
        """Returns the file's text."""
        box = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
        back = f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>'
        return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>{back}{"".join((*self._frame(), *self._parts))}</svg>\n'

    def _frame(self) -> Iterator[str]:
        yield _text(_LEFT, 22, self.title, "start", "font-weight:600")
        for tick in self.up.ticks if self.up.labels else ():
            y = self._y(tick)
            yield f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
            yield _text(_LEFT - 8, y + 4, f"{tick:g}", "end")
        for tick in self.across.ticks if self.across.labels else ():
            x = self._x(tick)
            yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" stroke="#eee"/>'
            yield _text(x, _HEIGHT - _BOTTOM + 18, f"{tick:g}")
        yield _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - _BOTTOM + 40, self.across.title)
        yield _text(_LEFT - 8, _TOP - 10, self.up.title, "end" if len(self.up.title) < 8 else "middle")

    def _x(self, value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * self.across.part(value)

    def _y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * self.up.part(value)


def _text(x: float, y: float, words: str, anchor: str = "middle", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="{_FONT};{more}">{escape(words)}</text>'


def _wrapped(words: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(words, width)[:3]


def powers_of_ten(values: Sequence[float]) -> list[float]:
    """Returns the powers of ten that cover all values, two at least."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return [10.0**power for power in range(low, max(high, low + 1) + 1)]


def round_ticks(low: float, high: float) -> list[float]:
    """Returns at most eight round numbers that cover both ends."""
    span = max(high - low, 1e-9)
    power = 10.0 ** math.floor(math.log10(span / 7))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if span / (power * factor) <= 7)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]
