from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from sdmobile.basics import metrics
from sdmobile.basics.metrics import image_ssim
from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.recording import Recording, record
from sdmobile.reference.sampling import SampleRequest, sample
from sdmobile.reference.torch_runner import TorchRunner
from sdmobile.validate.check import validate_bundle
from sdmobile.validate.options import ValidationOptions
from sdmobile.validate.parity import check_component, compare_runs
from sdmobile.validate.results import ValidationReport
from sdmobile.validate.thresholds import Thresholds
from tests.families import COMPONENTS
from tests.validate.bundles import copy_bundle, damage_weights, read_manifest, write_manifest
from tests.validate.fakes import FailingRunner, NoisyRunner

REQUEST = SampleRequest("a red circle", steps=4, scheduler="ddim")


@pytest.fixture(scope="module")
def recording(torch_runner: TorchRunner, spec: PipelineSpec) -> Recording:
    return record(torch_runner, spec, [REQUEST], COMPONENTS, max_samples=3)


@pytest.mark.parametrize("sigma", [1e-1, 1e-2, 1e-4])
def test_known_noise_gives_its_decibels(torch_runner: TorchRunner, recording: Recording, sigma: float) -> None:
    runner = NoisyRunner(torch_runner, "unet", sigma)
    check = check_component(runner, "unet", recording.samples["unet"], Thresholds())
    assert len(check.samples) == 3
    for sample_check, recorded in zip(check.samples, recording.samples["unet"], strict=True):
        peak = float(np.abs(recorded.outputs["noise_pred"]).max())
        expected = 20 * math.log10(peak / sigma)
        assert sample_check.metrics.psnr_db == pytest.approx(expected, abs=2.0)
        assert sample_check.key == recorded.key
    assert check.worst is not None
    assert check.worst.psnr_db == min(sample_check.metrics.psnr_db for sample_check in check.samples)
    assert check.status == ("passed" if check.worst.psnr_db >= 35 else "failed")
    assert runner.released == ["unet"]


def test_one_component_does_not_hide_another(torch_runner: TorchRunner, recording: Recording) -> None:
    runner = FailingRunner(torch_runner, raises="unet", nan="vae_decoder")
    checks = {name: check_component(runner, name, recording.samples[name], Thresholds()) for name in COMPONENTS}
    assert {name: check.status for name, check in checks.items()} == {
        "text_encoder": "passed",
        "unet": "error",
        "vae_decoder": "failed",
        "vae_encoder": "passed",
    }
    assert checks["unet"].reason == "RuntimeError: out of buffers"
    worst = checks["vae_decoder"].worst
    assert worst is not None
    assert worst.non_finite == 1
    assert math.isnan(worst.psnr_db)


def test_no_inputs_is_no_pass(torch_runner: TorchRunner) -> None:
    assert check_component(torch_runner, "unet", [], Thresholds()).status == "error"


def test_trajectories_step_by_step(torch_runner: TorchRunner, spec: PipelineSpec) -> None:
    exact = sample(torch_runner, spec, REQUEST)
    same = compare_runs(exact, sample(torch_runner, spec, REQUEST), "torch", Thresholds())
    assert same.status == "passed"
    assert min(same.latent_psnr_db) > 100
    noisy = sample(NoisyRunner(torch_runner, "unet", 0.02), spec, REQUEST)
    check = compare_runs(exact, noisy, "noisy", Thresholds())
    assert list(check.latent_psnr_db) == [metrics.psnr(a, b) for a, b in zip(exact.latents, noisy.latents, strict=True)]
    assert len(check.latent_psnr_db) == len(check.timesteps) == 4
    assert check.image_psnr_db == metrics.image_psnr(exact.image, noisy.image) < same.image_psnr_db
    assert check.image_ssim == image_ssim(exact.image, noisy.image) < same.image_ssim <= 1.0
    rmse = [metrics.rmse(a, b) for a, b in zip(exact.latents, noisy.latents, strict=True)]
    assert check.growth is not None
    assert check.growth.factor == pytest.approx(rmse[-1] / rmse[0])
    steps = [after / before for before, after in pairwise(rmse)]
    assert check.growth.worst_factor == pytest.approx(max(steps))
    assert steps[check.growth.worst_step - 2] == max(steps)
    broken = replace(noisy, image=np.full_like(noisy.image, np.nan))
    assert compare_runs(exact, broken, "noisy", Thresholds()).non_finite == noisy.image.size
    assert compare_runs(exact, broken, "noisy", Thresholds(image_db=-1e9)).status == "failed"


def options(tiny_checkpoint: Path, **fields: object) -> ValidationOptions:
    base = ValidationOptions(reference=tiny_checkpoint, prompts=("a red circle", "a blue square"), steps=4, threads=1)
    return replace(base, **fields)  # pyright: ignore[reportArgumentType]


def test_a_good_bundle_passes_with_numbers(onnx_bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    told: list[str] = []
    validation = validate_bundle(
        onnx_bundle,
        options(tiny_checkpoint, max_samples=4, recording_dir=tmp_path / "recorded"),
        lambda what, _done, _all: told.append(what),
    )
    report = validation.report
    assert report.passed
    assert report.complete
    assert report.failures == ()
    assert [check.component for check in report.components] == list(COMPONENTS)
    for check in report.components:
        assert check.worst is not None
        assert check.worst.psnr_db > 100, check.component
    assert [check.image_psnr_db > 90 for check in report.trajectories] == [True, True]
    assert [sorted(row) for row in validation.images] == [["ort", "torch"]] * 2
    np.testing.assert_allclose(validation.images[0]["ort"], validation.images[0]["torch"], atol=1e-3)
    assert len(list((tmp_path / "recorded").glob("unet-*.npz"))) == 4
    assert {"sampling with torch", "unet on ort", "sampling with ort"} <= set(told)
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["passed"] is True
    assert data["thresholds"] == {
        "component_db": 35.0,
        "image_db": 35.0,
        "image_ssim": -1.0,
        "non_finite": 0,
        "float32_db": 60.0,
        "overrides": [],
    }
    assert data["source"]["content_hash"] == read_manifest(onnx_bundle)["source"]["content_hash"]


def test_wrong_weights_in_one_file_fail_that_component_and_the_pictures(
    onnx_bundle: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = copy_bundle(onnx_bundle, tmp_path / "bundle")
    damage_weights(folder, "unet.onnx", 1.5)
    report = validate_bundle(folder, options(tiny_checkpoint)).report
    status = {check.component: check.status for check in report.components}
    assert status == dict.fromkeys(COMPONENTS, "passed") | {"unet": "failed"}
    assert {check.status for check in report.trajectories} == {"failed"}
    assert not report.passed
    assert "unet on ort" in report.failures[0]
    assert "at least 60 dB needed" in report.failures[0]
    lenient = options(tiny_checkpoint, thresholds=Thresholds.flat(-20.0))
    report = validate_bundle(folder, lenient).report
    assert {check.status for check in (*report.components, *report.trajectories)} == {"passed"}
    assert [check.name for check in report.extras if check.status == "failed"] == ["unet, weights"]


def test_a_file_that_cannot_be_read_fails_alone(onnx_bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = copy_bundle(onnx_bundle, tmp_path / "bundle")
    (folder / "vae_encoder.onnx").write_bytes(b"not a model")
    write_manifest(folder, read_manifest(folder))
    report = validate_bundle(folder, options(tiny_checkpoint)).report
    assert [check.status for check in report.components] == ["passed", "passed", "passed", "error"]
    assert {check.status for check in report.trajectories} == {"passed"}  # sampling needs no encoder
    assert not report.passed


def test_left_out_checks_are_not_run_and_never_passed(onnx_bundle: Path, tiny_checkpoint: Path) -> None:
    report = validate_bundle(
        onnx_bundle, options(tiny_checkpoint, components=("text_encoder",), trajectory=False)
    ).report
    assert [check.status for check in report.components] == ["passed", "not run", "not run", "not run"]
    assert [(c.status, c.reason) for c in report.trajectories] == [("not run", "--no-trajectory")] * 2
    assert report.passed
    assert not report.complete
    assert report.to_json()["complete"] is False


def test_a_bundle_of_some_components_has_no_trajectory(
    onnx_bundle: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = copy_bundle(onnx_bundle, tmp_path / "bundle")
    manifest = read_manifest(folder)
    del manifest["components"]["unet"], manifest["components"]["vae_decoder"]
    write_manifest(folder, manifest)
    report = validate_bundle(folder, options(tiny_checkpoint)).report
    assert [check.component for check in report.components] == ["text_encoder", "vae_encoder"]
    assert {check.reason for check in report.trajectories} == {"the bundle has no unet and no vae_decoder"}


def test_the_second_validation_samples_no_more(onnx_bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    told: list[str] = []

    def validate(**fields: object) -> ValidationReport:
        told.clear()
        sizes: dict[str, object] = {"max_samples": 1, "steps": 2, "prompts": ("a red circle",)}
        given = options(tiny_checkpoint, cache_dir=tmp_path, components=("unet",), **sizes, **fields)
        return validate_bundle(onnx_bundle, given, lambda what, _done, _all: told.append(what)).report

    first, first_told = validate(), list(told)
    second = validate()
    assert "sampling with torch" in first_told
    assert "sampling with torch" not in told
    assert (first.settings["recording_reused"], second.settings["recording_reused"]) == (False, True)
    for one, two in zip(first.components, second.components, strict=True):
        assert one.worst == two.worst
    for one, two in zip(first.trajectories, second.trajectories, strict=True):
        assert (one.image_psnr_db, one.latent_psnr_db) == (two.image_psnr_db, two.latent_psnr_db)
    assert validate(seed=1).settings["recording_reused"] is False
    for file in tmp_path.glob("*/run-000.npz"):
        file.write_bytes(b"damaged")
    assert validate().settings["recording_reused"] is False
    assert validate().settings["recording_reused"] is True


def test_another_checkpoint_is_an_error(onnx_bundle: Path, tmp_path: Path) -> None:
    from tests.synthetic import write_checkpoint

    other = write_checkpoint(tmp_path / "other", "tiny", seed=1)
    with pytest.raises(CheckpointError, match="must be the checkpoint that the bundle was exported from"):
        validate_bundle(onnx_bundle, options(other))


def test_no_reference_is_an_error_that_says_what_to_do(onnx_bundle: Path) -> None:
    with pytest.raises(CheckpointError, match="--reference CHECKPOINT"):
        validate_bundle(onnx_bundle, ValidationOptions())


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"components": ("text_encoder", "clip")}, "clip"), ({"runtime": "litert"}, "one of auto, ort: litert")],
)
def test_unknown_names_are_refused(
    onnx_bundle: Path, tiny_checkpoint: Path, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(UnsupportedError, match=message):
        validate_bundle(onnx_bundle, options(tiny_checkpoint, **fields))
