"""The table of tile sizes, and the simulated rounding errors, against figures found independently."""

from __future__ import annotations

import pytest

from sdmobile.rewrites.winograd.selection import Rounding, error_db, tile_facts
from sdmobile.rewrites.winograd.transforms import ML_DRIFT, TEXTBOOK

# 2304.11267, the table of output tile sizes: FLOPs saving, intermediates, weights.
PAPER = {2: (2.25, 4.0, 1.778), 4: (4.0, 2.25, 4.0), 6: (5.0625, 1.778, 7.111), 8: (5.76, 1.5625, 11.111)}
# A separate simulation: 320 channels, N(0, 1) data, float16 storage, float32 sums.
INDEPENDENT = {(4, ML_DRIFT): 54.2, (6, ML_DRIFT): 38.9, (6, TEXTBOOK): 43.4, (8, ML_DRIFT): 21.6}
# There the same simulation differs by more: it may have used other points of equal size, the figures do not say.
LOOSE = {(2, ML_DRIFT): 58.9, (4, TEXTBOOK): 50.3}


@pytest.mark.parametrize("tile", PAPER)
def test_the_papers_table(tile: int) -> None:
    facts = tile_facts(tile)
    found = (facts.flops_saving, facts.intermediates, facts.weights)
    assert [float(v) for v in found] == pytest.approx(PAPER[tile], abs=5e-4)


@pytest.mark.parametrize(("case", "decibels"), INDEPENDENT.items())
def test_float16_error(case: tuple[int, str], decibels: float) -> None:
    assert error_db(*case) == pytest.approx(decibels, abs=1.0)


@pytest.mark.parametrize(("case", "decibels"), LOOSE.items())
def test_float16_error_where_the_figures_are_further_apart(case: tuple[int, str], decibels: float) -> None:
    assert error_db(*case) == pytest.approx(decibels, abs=5.0)


def test_the_direct_form_rounds_less_and_larger_tiles_more() -> None:
    errors = [error_db(tile) for tile in (None, 2, 4, 6, 8)]
    assert errors == sorted(errors, reverse=True)
    assert error_db(None) == pytest.approx(68.8, abs=0.5)


def test_float16_weights_alone_cost_less_than_float16_everywhere() -> None:
    weights = Rounding(activations=False)
    assert error_db(4, rounding=weights) > error_db(4) + 3
    assert error_db(4, rounding=weights) < error_db(None, rounding=weights)


def test_nothing_rounded_is_exact() -> None:
    assert error_db(4, rounding=Rounding(False, False)) > 250
