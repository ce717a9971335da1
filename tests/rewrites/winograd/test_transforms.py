"""The matrices compute a correlation exactly, and are the ones that they are said to be."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmobile.errors import UnsupportedError
from sdmobile.rewrites.winograd.transforms import (
    ML_DRIFT,
    ONE,
    TEXTBOOK,
    TILES,
    ZERO,
    Surd,
    as_array,
    inverse,
    residual,
    transforms,
)

ALL = [(tile, ML_DRIFT) for tile in TILES] + [(tile, TEXTBOOK) for tile in (2, 4, 6)]
_fractions = st.fractions(min_value=-50, max_value=50, max_denominator=60)
_surds = st.builds(Surd, _fractions, _fractions)


@pytest.mark.parametrize(("tile", "points"), ALL)
def test_the_bilinear_identity_holds_for_every_monomial(tile: int, points: str) -> None:
    """Coefficients are compared in Q(√2), so this is a proof for every input, not a sample."""
    left = residual(transforms(tile, points))
    assert len(left) == 3 * tile
    assert all(value == ZERO for row in left for value in row)


def test_the_identity_fails_for_a_wrong_matrix() -> None:
    right = transforms(4)
    wrong = [list(row) for row in right.data]
    wrong[2][3] = wrong[2][3] + Surd(Fraction(1, 10**9))
    left = residual(type(right)(right.output, wrong, right.kernel, right.ones))
    assert any(value != ZERO for row in left for value in row)


def test_f2_is_the_published_one() -> None:
    """Lavin and Gray 2015, section 4.1, up to order and scale of the products, which the identity leaves free."""
    matrices = transforms(2, TEXTBOOK)
    assert as_array(matrices.output).tolist() == [[1, 1, 1, 0], [0, 1, -1, 1]]
    published = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]])
    scale = np.array([1, 0.5, 0.5, 1])[:, None]  # published: in G
    np.testing.assert_array_equal(as_array(matrices.data), published * scale)


def test_ml_drift_points_of_f4() -> None:
    row = as_array(transforms(4, ML_DRIFT).output)[1]
    root = 2**0.5
    np.testing.assert_allclose(row, [0, root / 2, -root / 2, root, -root, 0], rtol=0, atol=1e-15)


@pytest.mark.parametrize(("tile", "points"), ALL)
def test_ones_carry_a_bias(tile: int, points: str) -> None:
    matrices = transforms(tile, points)
    for row in matrices.output:
        assert sum((a * c for a, c in zip(row, matrices.ones, strict=True)), ZERO) == ONE


def test_unknown_tiles_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="5"):
        transforms(5)


@given(_surds, _surds)
def test_the_field_agrees_with_real_numbers(x: Surd, y: Surd) -> None:
    assert float(x + y) == pytest.approx(float(x) + float(y), abs=1e-9)
    assert float(x * y) == pytest.approx(float(x) * float(y), rel=1e-9, abs=1e-6)
    if y != ZERO:
        assert (x / y) * y == x


@given(st.lists(_surds, min_size=9, max_size=9))
def test_inverse_times_matrix_is_the_identity(values: list[Surd]) -> None:
    matrix = [values[i : i + 3] for i in (0, 3, 6)]
    try:
        inverted = inverse(matrix)
    except ValueError:
        assert abs(np.linalg.det(as_array(matrix))) < 1e-3
        return
    for i in range(3):
        for j in range(3):
            entry = sum((inverted[i][k] * matrix[k][j] for k in range(3)), ZERO)
            assert entry == (ONE if i == j else ZERO)
