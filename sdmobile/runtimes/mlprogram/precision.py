"""The three ways in which the evaluator rounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from sdmobile.formats.mlprogram.errors import InputError

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


EVALUATORS: dict[str, Precision] = {
    "evaluator": "float32",
    "evaluator-fp16": "float16-float32acc",
    "evaluator-fp16acc": "float16",
}
"""Names under which validation runs the evaluator. `evaluator-fp16` is the nearest to a phone: Core ML's GPU code
accumulates in float32 unless an app asks otherwise, and so does the Neural Engine as far as it was measured (see
docs/evaluator.md). `evaluator-fp16acc` is a stress test."""

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
