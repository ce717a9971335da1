"""Exact numbers a + b·√2, so that interpolation points such as ±√2/2 need no rounding."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import isqrt

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
