"""A small Core ML package, converted once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="package")
def small_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One convolution of 8 to 16 channels for iOS 17, in float16."""
    import coremltools as ct
    import numpy as np
    from coremltools.converters.mil import Builder

    mb: Any = Builder

    weights = np.random.default_rng(0).normal(size=(16, 8, 3, 3)).astype(np.float32)

    @mb.program(input_specs=[mb.TensorSpec((1, 8, 6, 6))], opset_version=ct.target.iOS17)
    def program(x: Any) -> Any:
        return mb.conv(x=x, weight=weights)

    path = tmp_path_factory.mktemp("coreml") / "small.mlpackage"
    ct.convert(program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS17).save(str(path))  # pyright: ignore
    return path
