"""Bundles and the command: contracts are obeyed, exit codes tell what happened."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from sdmobile.cli.app import run
from sdmobile.errors import EXIT_BELOW_THRESHOLD, EXIT_MISSING, EXIT_OK, UnsupportedError
from sdmobile.formats.bundle.contracts import Contract, TensorSpec
from sdmobile.formats.bundle.reading import Bundle, BundleComponent
from sdmobile.reference.recording import RecordedSample, Recording
from sdmobile.validate.gpu.bundle import GpuCheck, GpuReport, check_bundle_gpu, limited
from sdmobile.validate.gpu.verdict import GpuStatus, GpuVerdict, Way
from tests.validate.gpu.models import Case

Needs = Callable[[Way], None]


class _Bundle:
    """As much of a bundle as the check looks at."""

    target = "android"

    def __init__(self, case: Case) -> None:
        layout = {"description": "", "dtype": "float32"}
        source = TensorSpec("args_0", (1, 4, 16, 16), canonical="latent", layout="nchw", **layout)
        result = TensorSpec("output_0", (1, 8, 16, 16), canonical="image", layout="nchw", **layout)
        contract = Contract("android", "vae_decoder", case.path.name, "serving_default", (source,), (result,))
        self.components = {"vae_decoder": BundleComponent("vae_decoder", case.path, contract, {})}


def _recording(case: Case, count: int) -> Recording:
    image = case.expected["output_0"]
    samples = [
        RecordedSample("vae_decoder", str(i), {"latent": case.inputs["args_0"]}, {"image": image}) for i in range(count)
    ]
    return Recording({"vae_decoder": samples})


def test_bundle_is_compared_with_recorded_outputs(needs: Needs, plain: Case) -> None:
    needs("wheel")
    bundle, recording = cast(Bundle, _Bundle(plain)), _recording(plain, 2)
    ways: tuple[tuple[Way, str], ...] = (("wheel", "float32"),)
    (check,) = check_bundle_gpu(bundle, recording, ways, timeout=120).checks  # pyright: ignore[reportArgumentType]
    assert (check.component, check.reference, check.verdict.status) == ("vae_decoder", "torch", GpuStatus.ACCEPTED)
    assert check.verdict.samples == 2
    assert check.verdict.worst is not None
    assert check.verdict.worst.psnr_db > 120


def test_component_without_a_recording_is_compared_with_the_cpu(needs: Needs, plain: Case) -> None:
    needs("wheel")
    bundle = cast(Bundle, _Bundle(plain))
    (check,) = check_bundle_gpu(bundle, Recording(), (("wheel", "float32"),), timeout=120).checks
    assert (check.reference, check.verdict.status) == ("litert", GpuStatus.ACCEPTED)


def test_only_android_bundles() -> None:
    class Other:
        target = "ios"

    with pytest.raises(UnsupportedError, match="runs LiteRT files"):
        check_bundle_gpu(cast(Bundle, Other()), Recording())


def _report(*verdicts: GpuVerdict) -> GpuReport:
    return GpuReport(tuple(GpuCheck("unet", "unet.tflite", "torch", verdict) for verdict in verdicts))


def test_exit_codes() -> None:
    good = GpuVerdict("browser", "float32", GpuStatus.ACCEPTED)
    bad = replace(good, status=GpuStatus.REJECTED)
    composites = GpuVerdict("wheel", "float32", GpuStatus.NOT_RUN, reason="composites")
    missing = replace(composites, missing="no driver")
    assert _report(good).exit_code == EXIT_OK
    assert _report(good, composites).exit_code == EXIT_OK  # one way takes the file; the other has a reason of its own
    assert _report(composites).exit_code == EXIT_MISSING
    assert _report(good, missing).exit_code == EXIT_MISSING
    assert _report(good, missing, bad).exit_code == EXIT_BELOW_THRESHOLD
    assert GpuReport(()).exit_code == EXIT_MISSING


def test_few_samples_are_spread_over_the_recording() -> None:
    rows = [RecordedSample("unet", str(i), {"x": np.zeros(1)}, {}) for i in range(9)]
    kept = limited(Recording({"unet": rows, "vae_encoder": []}), 3).samples
    assert [sample.label for sample in kept["unet"]] == ["0", "4", "8"]
    assert kept["vae_encoder"] == []


def test_command(needs: Needs, plain: Case, refused: Case, capsys: pytest.CaptureFixture[str]) -> None:
    needs("wheel")
    assert run(["gpu-check", str(plain.path), "--way", "wheel", "--json"]) == EXIT_OK
    data = json.loads(capsys.readouterr().out)
    assert data["passed"] is True
    assert [check["precision"] for check in data["checks"]] == ["float32", "float16"]
    assert run(["gpu-check", str(refused.path), "--way", "wheel"]) == EXIT_BELOW_THRESHOLD
    printed = capsys.readouterr()
    assert "rejected" in printed.out
    assert "GroupNorm_norm" in printed.err
