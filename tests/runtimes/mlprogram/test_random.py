"""Random numbers: shape, moments, seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdmobile.runtimes.mlprogram import MLProgram
from tests.runtimes.mlprogram.support import builder, predict_all, save_program

COUNT = 20_000
KINDS = ("random_bernoulli", "random_normal", "random_uniform", "random_categorical")
"""The operations that these tests are about."""
P = np.array([[0.1, 0.6, 0.3], [0.7, 0.2, 0.1]], np.float32)


def _build(seed: int) -> Any:
    def build(p: Any, n: Any) -> Any:
        mb = builder()
        logits = mb.log(x=p)
        return (
            mb.random_bernoulli(shape=n, prob=np.float32(0.2), seed=seed),
            mb.random_normal(shape=[COUNT], mean=np.float32(3), stddev=np.float32(0.5), seed=seed),
            mb.random_uniform(shape=[2, COUNT // 2], low=np.float32(-1), high=np.float32(5), seed=seed),
            mb.random_categorical(x=logits, size=COUNT, seed=seed),
            mb.random_categorical(x=mb.mul(x=p, y=np.float32(4)), mode="probs", size=COUNT, seed=seed),
        )

    return build


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A program with a seed and one without."""
    folder = tmp_path_factory.mktemp("random")
    shapes = [(2, 3), (2,)]
    return {
        seed: save_program(_build(seed), shapes, folder / f"{seed}.mlpackage", dtypes=["float32", "int32"])
        for seed in (-1, 7)
    }


def _run(path: Path, precision: str = "float32") -> list[np.ndarray]:
    return predict_all(path, [P, np.array([COUNT, 1], np.int32)], precision)


@pytest.mark.parametrize("seed", [-1, 7])
def test_the_distributions_are_those_of_the_definition(drawn: dict[int, Path], seed: int) -> None:
    coin, bell, flat, *indices = _run(drawn[seed])
    assert [each.shape for each in (coin, bell, flat)] == [(COUNT, 1), (COUNT,), (2, COUNT // 2)]
    assert set(np.unique(coin)) == {0.0, 1.0}
    assert abs(coin.mean() - 0.2) < 0.02
    assert abs(bell.mean() - 3) < 0.03
    assert abs(bell.std() - 0.5) < 0.02
    assert abs(((bell - 3) ** 4).mean() / 0.5**4 - 3) < 0.3
    assert -1 <= flat.min() < -0.99 < 4.99 < flat.max() < 5
    assert abs(flat.mean() - 2) < 0.07
    for each in indices:
        shares = np.stack([np.bincount(row.astype(int), minlength=3) / COUNT for row in each])
        np.testing.assert_allclose(shares, P, atol=0.02)


def test_a_seed_repeats_the_numbers_and_none_does_not(drawn: dict[int, Path]) -> None:
    assert all(np.array_equal(a, b) for a, b in zip(_run(drawn[7]), _run(drawn[7]), strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(_run(drawn[-1]), _run(drawn[-1]), strict=True))
    near = zip(_run(drawn[7]), _run(drawn[7], "float16"), strict=True)
    assert all(np.allclose(a, b, atol=4e-3) for a, b in near)


def test_a_tall_order_is_refused(tmp_path: Path) -> None:
    from sdmobile.runtimes.mlprogram import UnsupportedOpError

    def build(n: Any) -> Any:
        return builder().random_uniform(shape=n, low=np.float32(2), high=np.float32(1))

    path = save_program(build, [(1,)], tmp_path / "wrong.mlpackage", dtypes=["int32"])
    with pytest.raises(UnsupportedOpError, match=r"low 2\.0 and high 1\.0"):
        MLProgram(path).predict({"x0": np.array([3], np.int32)})
