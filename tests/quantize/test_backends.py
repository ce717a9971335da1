"""What compresses each target's files, and which targets have nothing that does."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdmobile.checkpoints import open_checkpoint
from sdmobile.errors import UnsupportedError
from sdmobile.families.contracts import contract_for
from sdmobile.quantize.backends import backend_for
from sdmobile.reference.pipeline import PipelineSpec
from tests.families import COMPONENTS, SD


@pytest.mark.parametrize("target", ["ios", "android"])
def test_a_backend_is_for_the_files_that_the_target_exports(target: str) -> None:
    geometry = PipelineSpec.from_checkpoint(open_checkpoint(None)).geometry
    names = [contract_for(SD, target, component, geometry).file_name for component in COMPONENTS]
    assert {Path(name).suffix for name in names} == {backend_for(target).suffix}


def test_the_witness_is_not_compressed() -> None:
    with pytest.raises(UnsupportedError, match="ios and android"):
        backend_for("onnx")


def test_factors_are_for_core_ml() -> None:
    with pytest.raises(UnsupportedError, match="Core ML packages"):
        backend_for("android").correctable([Path("unet.tflite")])
