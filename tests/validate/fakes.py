"""Runners that go wrong in known ways."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdmobile.runtimes import Runner
from sdmobile.runtimes.base import Arrays


class NoisyRunner:
    """Adds Gaussian noise of a known standard deviation to one component's outputs of another runner."""

    def __init__(self, inner: Runner, component: str, sigma: float) -> None:
        self._inner, self._component, self._sigma = inner, component, sigma
        self._random = np.random.default_rng(0)
        self.released: list[str | None] = []

    @property
    def name(self) -> str:
        return "noisy"

    @property
    def components(self) -> tuple[str, ...]:
        return self._inner.components

    def run(self, component: str, inputs: Arrays) -> dict[str, NDArray[Any]]:
        outputs = self._inner.run(component, inputs)
        if component != self._component:
            return outputs
        return {
            name: (array + self._random.normal(0, self._sigma, array.shape)).astype(np.float32)
            for name, array in outputs.items()
        }

    def release(self, component: str | None = None) -> None:
        self.released.append(component)


class FailingRunner(NoisyRunner):
    """Raises in one component and answers NaN in another."""

    def __init__(self, inner: Runner, raises: str, nan: str) -> None:
        super().__init__(inner, "", 0.0)
        self._raises, self._nan = raises, nan

    @property
    def name(self) -> str:
        return "failing"

    def run(self, component: str, inputs: Arrays) -> dict[str, NDArray[Any]]:
        if component == self._raises:
            raise RuntimeError("out of buffers")
        outputs = super().run(component, inputs)
        if component == self._nan:
            for array in outputs.values():
                array.reshape(-1)[0] = np.nan
        return outputs
