"""The matrices of F(m×m, 3×3), generated from interpolation points without rounding.

    Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A        m·m outputs of a 3×3 correlation from an (m+2)×(m+2) tile

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015, section 4. The construction from points is
Toom and Cook's, in the convention of ml-drift (`common/winograd_util.cc`): with homogeneous points (x, y), infinity
being (1, 0), and n = m + 2,

    V(h)[r, i] = x_i^r · y_i^(h−1−r)        Aᵀ = V(m)        Bᵀ = V(n)⁻¹        G = V(3)ᵀ
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import isqrt
from typing import TYPE_CHECKING

from sdmobile.device_profiles.runtime_rules.conv_layer import KERNEL
from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    import numpy as np

_SCALE = 10**40
_ROOT_TWO = Fraction(isqrt(2 * _SCALE**2), _SCALE)  # √2 to 40 digits, for the one rounding to float64


@dataclass(frozen=True)
class Surd:
    """The number a + b·√2 of the field Q(√2), in which sums, products and quotients are exact.

    Args:
        a: rational part.
        b: factor of √2.
    """

    a: Fraction
    b: Fraction = Fraction(0)

    @classmethod
    def of(cls, value: Surd | Fraction | int) -> Surd:
        """Returns a rational number, or a number of the field, as a number of the field."""
        return value if isinstance(value, Surd) else cls(Fraction(value))

    def __add__(self, other: Surd) -> Surd:
        return Surd(self.a + other.a, self.b + other.b)

    def __sub__(self, other: Surd) -> Surd:
        return Surd(self.a - other.a, self.b - other.b)

    def __mul__(self, other: Surd) -> Surd:
        return Surd(self.a * other.a + 2 * self.b * other.b, self.a * other.b + self.b * other.a)

    def __truediv__(self, other: Surd) -> Surd:
        norm = other.a**2 - 2 * other.b**2  # zero for zero alone: √2 is irrational
        return self * Surd(other.a / norm, -other.b / norm)

    def __pow__(self, exponent: int) -> Surd:
        result = Surd(Fraction(1))
        for _ in range(exponent):
            result = result * self
        return result

    def __float__(self) -> float:
        return float(self.a + self.b * _ROOT_TWO)


ZERO, ONE = Surd(Fraction(0)), Surd(Fraction(1))
Matrix = list[list[Surd]]


def inverse(matrix: Matrix) -> Matrix:
    """Returns the exact inverse of a square matrix, by Gauss and Jordan's elimination.

    Raises:
        ValueError: the matrix is singular.
    """
    size = len(matrix)
    rows = [[*row, *(ONE if i == j else ZERO for j in range(size))] for i, row in enumerate(matrix)]
    for column in range(size):
        pivot = next((r for r in range(column, size) if rows[r][column] != ZERO), None)
        if pivot is None:
            raise ValueError("a singular matrix has no inverse")
        rows[column], rows[pivot] = rows[pivot], rows[column]
        rows[column] = [value / rows[column][column] for value in rows[column]]
        for r in range(size):
            factor = rows[r][column]
            if r != column and factor != ZERO:
                rows[r] = [x - factor * y for x, y in zip(rows[r], rows[column], strict=True)]
    return [row[size:] for row in rows]


TEXTBOOK, ML_DRIFT = "textbook", "ml-drift"
Point = tuple[Surd, Surd]


def _finite(*values: Fraction | int | Surd) -> tuple[Point, ...]:
    """Returns 0, then ± each value, as homogeneous points."""
    signed = [s for v in map(Surd.of, values) for s in (v, ZERO - v)]
    return tuple((x, ONE) for x in (ZERO, *signed))


_HALF_ROOT, _ROOT = Surd(Fraction(0), Fraction(1, 2)), Surd(Fraction(0), Fraction(1))
# Finite points; infinity is always the last one. ml-drift's choice is nearly symmetric under x → 1/x, which keeps the
# entries of all three matrices near 1, and with them the rounding errors.
_POINTS: dict[str, dict[int, tuple[Point, ...]]] = {
    TEXTBOOK: {
        2: _finite(1),
        4: _finite(1, 2),
        6: _finite(1, 2, Fraction(1, 2)),
    },
    ML_DRIFT: {
        2: _finite(1),
        4: _finite(_HALF_ROOT, _ROOT),
        6: _finite(Fraction(6, 10), Fraction(11, 10), Fraction(16, 10)),
        8: _finite(Fraction(5, 10), Fraction(9, 10), Fraction(10, 9), 2),
    },
}
TILES = tuple(_POINTS[ML_DRIFT])


@dataclass(frozen=True)
class Transforms:
    """The exact matrices of one F(m, 3).

    Args:
        output: Aᵀ, (m, m+2).
        data: Bᵀ, (m+2, m+2).
        kernel: G, (m+2, 3).
        ones: c with Aᵀ c = 1: a bias added to products as c cᵀ · bias comes out of the output transform as the bias.
    """

    output: Matrix
    data: Matrix
    kernel: Matrix
    ones: list[Surd]

    @property
    def tile(self) -> int:
        """m, the outputs per axis."""
        return len(self.output)


@cache
def transforms(tile: int, points: str = ML_DRIFT) -> Transforms:
    """Returns the matrices of F(tile, 3).

    Args:
        tile: m, one of TILES.
        points: ML_DRIFT or TEXTBOOK.

    Raises:
        UnsupportedError: no points are known for the tile size.
    """
    if tile not in _POINTS.get(points, {}):
        raise UnsupportedError(f"a Winograd output tile must be one of {TILES}", f"{tile} ({points})")
    finite = _POINTS[points][tile]
    every = (*finite, (ONE, ZERO))
    size = tile + KERNEL - 1
    return Transforms(
        output=_vandermonde(tile, every),
        data=inverse(_vandermonde(size, every)),
        kernel=[list(row) for row in zip(*_vandermonde(KERNEL, every), strict=True)],
        ones=[*_lagrange_at_one(finite), ZERO],
    )


def _vandermonde(height: int, points: tuple[Point, ...]) -> Matrix:
    return [[x**r * y ** (height - 1 - r) for x, y in points] for r in range(height)]


def _lagrange_at_one(points: tuple[Point, ...]) -> list[Surd]:
    """Returns the weights with which values at the points give a polynomial's value at 1: Σ c_i · x_i^r = 1^r."""
    values = [x for x, _ in points]
    weights = []
    for x in values:
        weight = ONE
        for other in values:
            if other != x:
                weight = weight * ((ONE - other) / (x - other))
        weights.append(weight)
    return weights


def residual(matrices: Transforms) -> Matrix:
    """Returns what is left of the bilinear identity, all zeros if the matrices compute a 3-tap correlation.

        Σ_k Aᵀ[i, k] · G[k, r] · Bᵀ[k, j]  −  [j = i + r]        one row per (i, r), one column per j

    Both sides are bilinear in tile and kernel, so agreement of these coefficients is agreement for every input.
    """
    size = len(matrices.data)
    rows = []
    for i in range(matrices.tile):
        for r in range(KERNEL):
            row = []
            for j in range(size):
                products = (matrices.output[i][k] * matrices.kernel[k][r] * matrices.data[k][j] for k in range(size))
                row.append(sum(products, ZERO) - (ONE if j == i + r else ZERO))
            rows.append(row)
    return rows


def as_array(matrix: Matrix) -> np.ndarray:
    """Returns a matrix as float64: each entry is rounded once."""
    import numpy as np

    return np.array([[float(value) for value in row] for row in matrix])
