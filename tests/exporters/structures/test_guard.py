"""Weights that a converter would drop or store once go the long way."""

from __future__ import annotations

import numpy as np
import pytest

from sdmobile.exporters.structures.bindings import Binding
from sdmobile.exporters.structures.guard import Guard, OrdinaryWeightsError

_A, _B = (Binding((name,), (), "float32") for name in "ab")


def test_ordinary_weights_pass() -> None:
    guard, draw = Guard(), np.random.default_rng(0)
    for binding in (_A, _B):
        guard.check(binding, draw.standard_normal(10_000, np.float32))
    guard.check(_A, np.zeros(1, np.float32))  # one number is one number throughout


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5])
def test_one_number_throughout_is_refused(value: float) -> None:
    with pytest.raises(OrdinaryWeightsError, match="a is"):
        Guard().check(_A, np.full(64, value, np.float16))


def test_the_same_weights_twice_are_refused() -> None:
    guard, values = Guard(), np.random.default_rng(0).standard_normal(10_000, np.float32)
    guard.check(_A, values)
    guard.check(_A, values)  # of one parameter that two layers share
    with pytest.raises(OrdinaryWeightsError, match="a and b"):
        guard.check(_B, values.copy())
