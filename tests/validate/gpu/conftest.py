"""Files for the GPU check, and what happens to a test whose way is not set up."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sdmobile.validate.gpu.check import prepare
from sdmobile.validate.gpu.verdict import Way
from tests.validate.gpu.models import Case, CompositeNorm, Plain, Slow, Transposed, WithNorm, write_case

REQUIRED = "SDMOBILE_GPU_REQUIRED"


@pytest.fixture(scope="session")
def needs() -> Callable[[Way], None]:
    """Skips the test where a way is not set up; fails it where continuous integration demands the way."""

    def check(way: Way) -> None:
        ready = prepare(way)
        if ready.missing is None:
            return
        words = f"the {way} way is not set up: {ready.missing}. {ready.fix}"
        if os.environ.get(REQUIRED):
            pytest.fail(words)
        pytest.skip(words)

    return check


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu-models")


@pytest.fixture(scope="session")
def plain(models: Path) -> Case:
    torch.manual_seed(0)
    return write_case(models, "plain", Plain(), (1, 4, 16, 16))


@pytest.fixture(scope="session")
def transposed(models: Path) -> Case:
    torch.manual_seed(0)
    return write_case(models, "transposed", Transposed(), (1, 4, 16, 16))


@pytest.fixture(scope="session")
def refused(models: Path) -> Case:
    torch.manual_seed(0)
    return write_case(models, "refused", WithNorm(), (1, 4, 16, 16))


@pytest.fixture(scope="session")
def composite(models: Path) -> Case:
    torch.manual_seed(0)
    return write_case(models, "composite", CompositeNorm(), (1, 8, 8, 8))


@pytest.fixture(scope="session")
def slow(models: Path) -> Case:
    torch.manual_seed(0)
    return write_case(models, "slow", Slow(), (1, 4, 512, 512))
