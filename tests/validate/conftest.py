"""Fixtures of the validation tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdmobile.checkpoints import Checkpoint, open_checkpoint
from sdmobile.validate.runners import TorchRunner
from sdmobile.validate.sampling import PipelineSpec
from tests.validate.fixtures import onnx_bundle

__all__ = ["onnx_bundle"]


@pytest.fixture(scope="session")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return open_checkpoint(tiny_checkpoint)


@pytest.fixture(scope="session")
def spec(checkpoint: Checkpoint) -> PipelineSpec:
    return PipelineSpec.from_checkpoint(checkpoint)


@pytest.fixture(scope="session")
def torch_runner(checkpoint: Checkpoint, spec: PipelineSpec) -> TorchRunner:
    return TorchRunner(checkpoint, spec.geometry)
