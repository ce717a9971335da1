"""coremltools with the evaluator in the place of Core ML, and a model for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtimes.mlprogram.support import prepare_coremltools, save_program


@pytest.fixture
def coremltools() -> Iterator[Any]:
    from sdmobile.coremltools_backend import install, remove

    ct = prepare_coremltools()
    install()
    yield ct
    remove()


@pytest.fixture(scope="session")
def doubled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float16 program that returns twice its input, (2, 3), and the sum of it, a scalar."""
    from tests.runtimes.mlprogram.support import builder

    def build(x: Any) -> Any:
        mb = builder()
        total = mb.reduce_sum(x=x, axes=[0, 1], keep_dims=False, name="total")
        return mb.mul(x=x, y=np.float32(2), name="y"), total

    path = tmp_path_factory.mktemp("doubled") / "doubled.mlpackage"
    return save_program(build, [(2, 3)], path, target="iOS18", float16=True)
