from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmobile.basics.metrics import image_ssim


def by_definition(a: np.ndarray, b: np.ndarray) -> float:
    """The equation, window by window, with the weighted moments written out."""
    x, y = (np.clip(image[0].astype(np.float64), -1, 1) / 2 + 0.5 for image in (a, b))
    line = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    weights = np.outer(line, line) / np.outer(line, line).sum()
    values = []
    for channel in range(x.shape[0]):
        for top in range(x.shape[1] - 10):
            for left in range(x.shape[2] - 10):
                p, q = (image[channel, top : top + 11, left : left + 11] for image in (x, y))
                mp, mq = (weights * p).sum(), (weights * q).sum()
                vp, vq = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum()
                cov = (weights * (p - mp) * (q - mq)).sum()
                structure = (2 * cov + 0.03**2) / (vp + vq + 0.03**2)
                values.append((2 * mp * mq + 0.01**2) / (mp**2 + mq**2 + 0.01**2) * structure)
    return float(np.mean(values))


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(11, 16),
    width=st.integers(11, 16),
    noise=st.floats(0, 2),
)
def test_equals_its_definition(seed: int, height: int, width: int, noise: float) -> None:
    random = np.random.default_rng(seed)
    a = random.uniform(-1.2, 1.2, (1, 3, height, width)).astype(np.float32)
    b = (a + random.normal(0, noise, a.shape)).astype(np.float32)
    similarity = image_ssim(a, b)
    assert similarity == pytest.approx(by_definition(a, b), abs=1e-9)
    assert similarity == pytest.approx(image_ssim(b, a), abs=1e-12)
    assert image_ssim(a, a) == pytest.approx(1.0, abs=1e-12)


def test_a_constant_shift_leaves_the_luminance_term() -> None:
    dark, light = (np.full((1, 3, 16, 16), value, np.float32) for value in (-0.5, 0.5))
    expected = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    assert image_ssim(dark, light) == pytest.approx(expected, abs=1e-9)


def test_what_cannot_be_compared() -> None:
    image = np.zeros((1, 3, 16, 16), np.float32)
    broken = image.copy()
    broken[0, 0, 0, 0] = np.nan
    assert math.isnan(image_ssim(image, broken))
    with pytest.raises(ValueError, match="11 × 11"):
        image_ssim(image[..., :10], image[..., :10])
