from __future__ import annotations

import io
import math
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdmobile.basics import words
from sdmobile.report.figures import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Curve, png_bytes, trajectory_svg


@pytest.mark.parametrize(
    ("count", "text"), [(None, "–"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 * 2**40, "3072.0 GiB")]
)
def test_sizes(count: int | None, text: str) -> None:
    assert words.size(count) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.123, "0.12 s"), (20.4, "20 s"), (119.9, "120 s"), (3661, "61 min 01 s")]
)
def test_durations(value: float, text: str) -> None:
    assert words.seconds(value) == text


def test_levels() -> None:
    assert words.decibels(35.04) == "35.0 dB"
    assert words.decibels(math.nan) == words.decibels(None) == "–"
    assert words.lowest([3.0, 1.0, 2.0]) == 1.0
    assert words.lowest([]) is words.lowest([1.0, math.nan]) is words.lowest([1.0, None]) is None
    assert words.similarity(0.5) == "0.5000"
    assert words.count(3216548) == "3\u202f216\u202f548"


@settings(deadline=None)
@given(
    values=st.lists(
        st.lists(st.one_of(st.none(), st.floats(-50, 200)), min_size=1, max_size=30), min_size=1, max_size=5
    )
)
def test_every_point_is_drawn_inside_the_plot(values: list[list[float | None]]) -> None:
    svg = trajectory_svg([Curve(f"run <{i}>", i, i, row) for i, row in enumerate(values)])
    known = [value for row in values for value in row if value is not None]
    if not known:
        assert svg == ""
        return
    root = ElementTree.fromstring(svg)
    circles = list(root.iter("circle"))
    assert len(circles) == len(known)
    for circle in circles:
        assert LEFT - 0.1 <= float(circle.attrib["cx"]) <= WIDTH - RIGHT + 0.1
        assert TOP - 0.1 <= float(circle.attrib["cy"]) <= HEIGHT - BOTTOM + 0.1


def test_higher_levels_are_drawn_higher() -> None:
    root = ElementTree.fromstring(trajectory_svg([Curve("a", 0, 0, [40.0, 60.0, 50.0])]))
    points = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in root.iter("circle")]
    assert points[0][0] < points[1][0] < points[2][0]
    assert points[1][1] < points[2][1] < points[0][1]
    titles = [element.text for element in root.iter("title")]
    assert titles == ["a, step 1: 40.0 dB", "a, step 2: 60.0 dB", "a, step 3: 50.0 dB"]


def test_png_holds_pixels_and_any_text() -> None:
    image = np.zeros((1, 3, 8, 8), np.float32)
    texts = {"prompt": "ein Kreis – 円", "seed": "3"}
    opened = Image.open(io.BytesIO(png_bytes(image, texts)))
    assert opened.size == (8, 8)
    assert {key: opened.info[key] for key in texts} == texts
