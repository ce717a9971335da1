"""The Android file of an autoencoder whose values pass float16's range, on Google's GPU engine in float16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sdmobile.checkpoints import open_checkpoint
from sdmobile.formats.bundle.reading import BundleComponent
from sdmobile.rewrites.options import FLOAT16_SCALES
from sdmobile.validate.checks import Status
from sdmobile.validate.gpu import check_file
from sdmobile.validate.gpu.verdict import GpuStatus, GpuVerdict, Way
from sdmobile.validate.weights.check import _check_component
from tests.validate.scaled import drawn_case, exported_decoder, planted_checkpoint

pytestmark = pytest.mark.slow
EXPONENT = 17


@pytest.fixture(scope="module")
def planted(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_checkpoint(tiny_checkpoint, tmp_path_factory.mktemp("planted") / "tiny", EXPONENT)


def on_the_gpu(component: BundleComponent, checkpoint: Path) -> GpuVerdict:
    inputs, expected = drawn_case(checkpoint, component.contract)
    output = {component.contract.outputs[0].name: expected.transpose(0, 2, 3, 1)}
    return check_file(component.path, inputs, output, way="wheel", precision="float16", timeout=300)


def test_the_androids_file_is_right_in_float16(needs: Callable[[Way], None], planted: Path, tmp_path: Path) -> None:
    needs("wheel")
    scaled = exported_decoder(planted, "android", tmp_path / "scaled")
    assert scaled.record[FLOAT16_SCALES]["streams"]
    assert _check_component(scaled, "android", open_checkpoint(planted)).status == Status.PASSED
    right = on_the_gpu(scaled, planted)
    assert right.status == GpuStatus.ACCEPTED, right.reason
    assert right.worst is not None
    assert right.worst.psnr_db > 50
    plain = on_the_gpu(exported_decoder(planted, "android", tmp_path / "plain", (FLOAT16_SCALES,)), planted)
    assert plain.status == GpuStatus.WRONG
