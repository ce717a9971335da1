"""The three ways in which the evaluator rounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from sdmobile.validate.mlprogram.errors import InputError

Precision = Literal["float32", "float16", "float16-float32acc"]


@dataclass(frozen=True)
class Rounding:
    """What is rounded to float16.

    Args:
        results: inputs, weights and results that the program declares as float16.
        sums: also the partial sums inside reductions, convolutions and matrix products of type float16.
    """

    results: bool
    sums: bool


_ROUNDINGS: dict[str, Rounding] = {
    "float32": Rounding(results=False, sums=False),
    "float16": Rounding(results=True, sums=True),
    "float16-float32acc": Rounding(results=True, sums=False),
}


def rounding(precision: Precision) -> Rounding:
    """Returns what a precision rounds.

    Raises:
        InputError: there is no such precision.
    """
    if precision not in _ROUNDINGS:
        raise InputError(f"The precision must be one of {', '.join(get_args(Precision))}", precision)
    return _ROUNDINGS[precision]
