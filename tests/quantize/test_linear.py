"""Linear encodings against the formula, element by element."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmobile.errors import UnsupportedError
from sdmobile.quantize.encodings import encode, misfit
from sdmobile.quantize.linear import LinearEncoding, quantize_linear
from sdmobile.quantize.schemes import Linear, Palette, parse_scheme

SHAPES = st.sampled_from([(1, 8), (6, 8), (4, 16, 3, 3), (5, 8, 1, 1)])


def _by_hand(encoding: LinearEncoding) -> np.ndarray:
    """scale · (data − offset) with one Python number at a time."""
    result = np.empty(encoding.shape, np.float16)
    sizes = [n // c for n, c in zip(encoding.shape, encoding.scale.shape, strict=True)]
    for index in itertools.product(*map(range, encoding.shape)):
        block = tuple(i // s for i, s in zip(index, sizes, strict=True))
        offset = 0 if encoding.offset is None else int(encoding.offset[block])
        result[index] = np.float16(np.float32(encoding.scale[block]) * np.float32(int(encoding.data[index]) - offset))
    return result


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.sampled_from([4, 8]), st.sampled_from([0, 4, 8]), st.booleans(), st.integers(0, 99), st.floats(-4, 3))
def test_values_are_the_nearest_steps(
    shape: tuple[int, ...], bits: int, block: int, symmetric: bool, seed: int, exponent: float
) -> None:
    rng = np.random.default_rng(seed)
    weight = (rng.normal(0.3, 1, shape) * 10**exponent).astype(np.float16)
    encoding = quantize_linear(weight, Linear(bits, block, symmetric))  # type: ignore[arg-type]
    decoded = encoding.decode()
    assert np.array_equal(decoded, _by_hand(encoding))
    scale = np.broadcast_to(_spread(encoding.scale.astype(np.float64), shape), shape)
    error = np.abs(decoded.astype(np.float64) - weight.astype(np.float64))
    # Half a step; the largest value can lie beyond the last step, because the scale is rounded to float16 (2^-11
    # relative, at most one smallest float16 number), and the result is rounded too.
    levels = 1 << bits
    assert np.all(error <= scale / 2 + levels * (scale * 2**-11 + 2.0**-25) + np.abs(weight) * 2.0**-11 + 2.0**-25)
    assert encoding.mse == pytest.approx(float(np.mean(error**2)), rel=1e-4, abs=1e-12)


def _spread(scale: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.repeat(scale, shape[1] // scale.shape[1], axis=1)


def test_symmetric_int8_uses_the_whole_range_of_each_channel() -> None:
    weight = np.array([[1.0, -0.5, 0.25], [0.02, 0.01, -0.005]], np.float16)
    encoding = quantize_linear(weight, Linear(8))
    assert encoding.data[:, 0].tolist() == [127, 127]
    assert encoding.data[:, 2].tolist() == [32, -32]
    assert encoding.scale.reshape(-1) == pytest.approx([1 / 127, 0.02 / 127], rel=1e-3)


def test_asymmetric_channels_keep_zero_exact() -> None:
    weight = np.array([[0.0, 1.0, 3.0], [-3.0, 0.0, -1.0], [0.0, 0.0, 0.0]], np.float16)
    decoded = quantize_linear(weight, Linear(4, symmetric=False)).decode()
    assert np.all(decoded[weight == 0] == 0)
    assert np.abs(decoded - weight).max() <= 0.1


@pytest.mark.parametrize("name", ["int8c", "uint8c", "int4b8", "uint4b4", "int4c"])
def test_stored_bytes_are_those_of_integers_scales_and_offsets(name: str) -> None:
    scheme = parse_scheme(name)
    assert isinstance(scheme, Linear)
    encoding = encode(np.ones((16, 24, 3, 3), np.float16), scheme)
    blocks = 16 * (24 // scheme.block_size if scheme.block_size else 1)
    offsets = 0 if scheme.symmetric else blocks * scheme.bits // 8
    assert encoding.stored_bytes == 16 * 24 * 9 * scheme.bits // 8 + 2 * blocks + offsets


def test_tensors_of_many_rows_are_the_same_as_their_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.random.default_rng(0).normal(size=(64, 32, 3, 3)).astype(np.float16)
    for name in ("int8c", "uint4b8"):
        whole = encode(weight, parse_scheme(name))
        monkeypatch.setattr("sdmobile.quantize.linear._AT_ONCE", 32 * 9 * 5)
        parts = encode(weight, parse_scheme(name))
        monkeypatch.undo()
        assert np.array_equal(whole.decode(), parts.decode())
        assert whole.mse == pytest.approx(parts.mse)


def test_what_does_not_fit_is_named() -> None:
    assert misfit((8, 24), Linear(4, 16)) == "the input channels must be a multiple of the block size 16: [8, 24]"
    assert misfit((24, 8), Palette(4, 16)) == "24 output channels are not a multiple of 16"
    assert misfit((24,), Linear(4, 16)) is not None
    assert misfit((24,), Linear(8)) is None
    with pytest.raises(UnsupportedError, match="multiple of the block size 16"):
        encode(np.ones((8, 24), np.float16), Linear(4, 16))
    with pytest.raises(UnsupportedError, match="w8a8"):
        encode(np.ones((8, 24), np.float16), parse_scheme("w8a8"))


def test_float16_is_kept_as_it_is() -> None:
    weight = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float16)
    encoding = encode(weight, parse_scheme("fp16"))
    assert np.array_equal(encoding.decode(), weight)
    assert encoding.mse == 0
    assert encoding.stored_bytes == 32
