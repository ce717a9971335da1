"""The constants of the plain forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdmobile.rewrites.attention.arithmetic import MASKED, added_mask, shrink_exponent

FLOAT16_MAX = 65504.0


@given(keys=st.integers(1, 20000), bound=st.floats(1.0, 60000.0))
def test_the_value_product_fits_float16_and_no_more_is_given_away(keys: int, bound: float) -> None:
    k = shrink_exponent(keys, bound)
    assert keys * bound * 2.0**-k <= FLOAT16_MAX * (1 + 1e-12)
    assert k == 0 or keys * bound * 2.0 ** (1 - k) > FLOAT16_MAX


@pytest.mark.parametrize(("keys", "exponent"), [(4096, 6), (1024, 4), (77, 1), (63, 0)])
def test_exponents_of_stable_diffusion(keys: int, exponent: int) -> None:
    assert shrink_exponent(keys, 1000.0) == exponent


def test_a_masked_key_weighs_nothing_in_float16() -> None:
    """Up to half of what is added; a sum with any such score stays finite."""
    for score in (-15000.0, 0.0, 15000.0):
        masked = torch.tensor([score, -15000.0], dtype=torch.float16) + torch.tensor([MASKED, 0.0]).half()
        assert bool(masked.isfinite().all())
    weights = (torch.tensor([14000.0 + MASKED, -14000.0]).half()).softmax(0)
    assert weights.tolist() == [0.0, 1.0]


def test_causal_constant() -> None:
    mask = added_mask(None, True, 3, 4, torch.float32)
    assert mask is not None
    assert torch.equal(mask == 0, torch.ones(3, 4).tril().bool())
    assert float(mask.min()) == MASKED


def test_a_boolean_mask_is_added_without_infinities() -> None:
    mask = added_mask(torch.tensor([[True, False]]), False, 1, 2, torch.float16)
    assert mask is not None
    assert mask.tolist() == [[0.0, MASKED]]
    assert math.isfinite(float(mask.sum()))
