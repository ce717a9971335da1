"""The plots: marks and bars lie where their numbers say."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from sdmobile.basics.svg import Axis, powers_of_ten, round_ticks
from sdmobile.formats.bundle.reading import Bundle
from sdmobile.prediction.assess import assess
from sdmobile.prediction.assess_device import choose_unit
from sdmobile.prediction.plots import roofline_svg, waterfall_svg
from tests.prediction.assessed import sd15

__all__ = ["sd15"]

_SVG = "{http://www.w3.org/2000/svg}"


def test_the_roofline_has_every_kernel_with_arithmetic_at_its_rate(sd15: Bundle) -> None:
    result = assess(sd15, choose_unit("galaxy-s23-ultra"))
    root = ElementTree.fromstring(roofline_svg(result))
    marks = [circle for circle in root.iter(f"{_SVG}circle") if circle.find(f"{_SVG}title") is not None]
    busy = [time for part in result.components if part.calls for time in part.prediction.times if time.kernel.macs]
    idle = [time for part in result.components if not part.calls for time in part.prediction.times if time.kernel.macs]
    assert len(marks) == len(busy) + len(idle)
    rates = [time.kernel.macs / time.seconds / 1e9 for time in (*busy, *idle)]
    # Two ticks of the vertical axis give its scale; every mark must then stand at a kernel's rate.
    ticks = {
        float(text.text or "nan"): float(text.attrib["y"]) - 4
        for text in root.iter(f"{_SVG}text")
        if text.attrib["text-anchor"] == "end" and (text.text or "").replace(".", "").isdigit()
    }
    low, high = min(ticks), max(ticks)
    decade = (ticks[high] - ticks[low]) / math.log10(high / low)
    drawn = sorted(low * 10 ** ((float(mark.attrib["cy"]) - ticks[low]) / decade) for mark in marks)
    assert drawn == pytest.approx(sorted(rates), rel=0.01)
    assert "predicted" in "".join(root.itertext())


def test_the_waterfall_takes_each_step_off_the_one_before() -> None:
    steps = [("baseline", 1.0), ("first", 0.7), ("second", 0.75), ("third", 0.4)]
    root = ElementTree.fromstring(waterfall_svg(steps, "title & more", 0.5))
    back, *bars = list(root.iter(f"{_SVG}rect"))
    assert back.attrib["fill"] == "#fff"
    heights = [float(bar.attrib["height"]) for bar in bars]
    assert [height / heights[0] for height in heights] == pytest.approx([1.0, 0.3, 0.05, 0.35, 0.4], abs=2e-3)
    bottoms = [float(bar.attrib["y"]) + height for bar, height in zip(bars, heights, strict=True)]
    tops = [float(bar.attrib["y"]) for bar in bars]
    assert tops[1] == pytest.approx(tops[0])  # the first step hangs from the baseline
    assert bottoms[1] == pytest.approx(bottoms[2], abs=0.2)  # a step that costs time stands on the last one
    assert tops[4] == pytest.approx(bottoms[3], abs=0.2)
    assert "all of them, predicted: -60.0%; published, measured on the phone: -50.0%" in "".join(root.itertext())


def test_axes() -> None:
    assert powers_of_ten([0.5, 300.0]) == [0.1, 1.0, 10.0, 100.0, 1000.0]
    assert powers_of_ten([10.0]) == [10.0, 100.0]
    assert round_ticks(0.0, 1068.0) == [0, 200, 400, 600, 800, 1000, 1200]
    axis = Axis([1.0, 10.0, 100.0], "", logarithmic=True)
    assert [axis.part(value) for value in (1.0, 10.0, 100.0)] == pytest.approx([0.0, 0.5, 1.0])
