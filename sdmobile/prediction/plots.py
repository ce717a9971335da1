"""Plots of predictions as SVG files that need nothing around them: a bundle's roofline, an ablation's steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from sdmobile.basics.svg import Axis, Canvas, powers_of_ten, round_ticks

if TYPE_CHECKING:
    from sdmobile.prediction.assess import Assessment

_COLOURS = {
    "conv": "#1f5fa8",
    "winograd": "#2f9fd0",
    "depthwise": "#6b4fa0",
    "matmul": "#b3541e",
    "attention": "#d99a1c",
    "softmax": "#c23b6e",
    "norm": "#3a8f4d",
}
_OTHER = "#888888"
_FOUND, _FELL, _ROSE = "#1f5fa8", "#3a8f4d", "#b3541e"


def roofline_svg(result: Assessment) -> str:
    """Returns every kernel's rate over its arithmetic intensity, under the unit's roofs; both axes are logarithmic.

    A kernel without multiply-accumulates has no place in it. A larger mark is a larger share of an image.
    Williams et al. 2009, doi 10.1145/1498765.1498785.
    """
    marks = [each for each in result.costliest(1 << 30) if each.time.kernel.macs and each.time.kernel.bytes]
    shown = sum(each.share for each in marks)
    model, device = result.device.model, result.device
    points = [(k.time.kernel.macs / k.time.kernel.bytes, k.time.kernel.macs / k.time.seconds / 1e9) for k in marks]
    best = max(model.parameters.efficiency.values(), default=1.0)
    peak, reached = model.peak_macs / 1e9, best * model.peak_macs / 1e9
    bandwidth = model.parameters.bandwidth / 1e9
    across = powers_of_ten([x for x, _ in points] + [0.5 * peak / bandwidth, 2 * peak / bandwidth])
    up = powers_of_ten([y for _, y in points] + [peak])
    canvas = Canvas(
        f"{result.name} on {device.profile.title}, {device.name}: predicted",
        Axis(across, "multiply-accumulates per byte of memory traffic", logarithmic=True),
        Axis(up, "GMAC/s", logarithmic=True),
    )
    for height, name in ((peak, "peak"), (reached, "highest efficiency")):
        corner = height / bandwidth
        canvas.line([(max(corner, across[0]), height), (across[-1], height)], "#333", dashed=name != "peak")
        canvas.text(across[-1], height, f"{name}, {height:.0f} GMAC/s", "end", above=5)
    slope = [(x, x * bandwidth) for x in (max(across[0], up[0] / bandwidth), peak / bandwidth)]
    canvas.line(slope, "#333")
    canvas.text(1.6 * slope[0][0], 1.2 * slope[0][1], f"{bandwidth:.0f} GB/s", "start")
    for each, (x, y) in sorted(zip(marks, points, strict=True), key=lambda pair: -pair[0].share):
        kernel = each.time.kernel
        tip = f"{each.component} {kernel.name}: {kernel.category}, {1e6 * each.time.seconds:.0f} µs, {each.share:.1%}"
        canvas.mark(x, y, 2.0 + 60 * math.sqrt(each.share / 10), _COLOURS.get(kernel.category, _OTHER), tip)
    used = [name for name in _COLOURS if any(each.time.kernel.category == name for each in marks)]
    canvas.legend([(name, _COLOURS[name]) for name in used])
    canvas.caption(
        f"larger: a larger share of the image; the kernels shown take {shown:.0%} of it, the others do no arithmetic"
    )
    return canvas.svg()


def waterfall_svg(steps: Sequence[tuple[str, float]], title: str, published: float | None = None) -> str:
    """Returns the steps of an ablation: what each takes off the time before it.

    Args:
        steps: name and seconds, each with all steps before it; the first is the baseline.
        title: of the plot.
        published: reduction by all steps together that a paper measured, as a fraction.
    """
    first, last = steps[0][1], steps[-1][1]
    scale, unit = (1e3, "ms") if first < 10 else (1.0, "s")
    ticks = round_ticks(0.0, scale * max(seconds for _, seconds in steps))
    places = [float(i) for i in range(len(steps) + 2)]
    canvas = Canvas(title, Axis(places, "", labels=False), Axis(ticks, f"predicted, {unit}"))
    canvas.bar(0.5, 0.0, scale * first, _FOUND, steps[0][0], f"{scale * first:.4g}")
    for place, ((_, before), (name, after)) in enumerate(pairwise(steps), 1):
        change = after / before - 1.0
        canvas.line([(place - 0.19, scale * before), (place + 0.19, scale * before)], "#999", dashed=True)
        low, high = sorted((scale * after, scale * before))
        canvas.bar(place + 0.5, low, high, _FELL if after <= before else _ROSE, name, f"{change:+.1%}")
    canvas.bar(len(steps) + 0.5, 0.0, scale * last, _FOUND, "all of them", f"{scale * last:.4g}")
    told = f"each step against the one before; all of them, predicted: {last / first - 1:+.1%}" if first else ""
    beside = "" if published is None else f"; published, measured on the phone: {-published:+.1%}"
    canvas.caption(told + beside)
    return canvas.svg()
