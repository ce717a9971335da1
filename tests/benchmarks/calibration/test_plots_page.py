"""The page about device profiles says what the code says, and its pictures are the code's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sdmobile
from benchmarks.calibration.plots_page import PAGE, pictures, stable_diffusion, tables
from benchmarks.calibration.stable_diffusion import published_ablation

_DOCS = Path(sdmobile.__file__).parent.parent / "docs"


@pytest.mark.parametrize("name", ["ablation", "savings"])
def test_the_tables_are_those_of_the_code(name: str) -> None:
    page = (_DOCS / PAGE).read_text("utf-8")
    between = page.split(f"<!-- {name} -->")[1].split(f"<!-- end {name} -->")[0]
    assert between.strip() == tables()[name], "run `python -m benchmarks.calibration.plots_page docs`"


def test_the_pictures_are_those_of_the_code() -> None:
    for name, text in pictures().items():
        assert _shapes(text) == _shapes((_DOCS / "pictures" / name).read_text("utf-8")), name


def _shapes(svg: str) -> list[str]:
    """All positions, sizes and words; numbers by their whole part, as the last digit is the machine's."""
    return re.findall(r"(?:>[^<]+<)|[a-z0-9]+=\"[^\"]*\"", re.sub(r"(\d+)\.\d+", r"\1", svg))


def test_the_published_reductions_stand_beside_the_predicted() -> None:
    rows = published_ablation()
    table = tables()["ablation"].splitlines()
    last, published = table[-2], table[-1]
    for phone, steps in rows.items():
        assert f"-{steps[-1].reduction:.1%}" in last, phone
    assert "-52.2%" in published
    assert "-32.9%" in published


def test_the_roofline_is_of_the_image_of_the_paper() -> None:
    found = stable_diffusion()
    assert found.image is not None
    assert found.image.seconds == pytest.approx(11.5, rel=0.01)
