"""`sdmobile inspect`: what it prints, as JSON on stdout, and its verdict per target."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer
from typer.testing import CliRunner

from sdmobile.checkpoints import open_checkpoint
from sdmobile.cli.inspect import inspect
from sdmobile.errors import CheckpointError
from sdmobile.exporters.preflight import PreflightReport, preflight
from sdmobile.exporters.request import ExportRequest

if TYPE_CHECKING:
    from sdmobile.checkpoints import Checkpoint

app = typer.Typer()
app.command()(inspect)


@pytest.fixture
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return open_checkpoint(tiny_checkpoint)


def judge(checkpoint: Checkpoint, target: str) -> PreflightReport:
    return preflight(checkpoint, ExportRequest(None, target, Path("bundle")))


def test_json_is_all_of_stdout(tiny_checkpoint: Path, checkpoint: Checkpoint) -> None:
    result = CliRunner().invoke(app, [str(tiny_checkpoint), "--json"])
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["content_hash"] == checkpoint.content_hash
    assert found["latent"] == [4, 16, 16]
    assert found["image"] == [3, 32, 32]
    assert found["context"] == [77, 32]
    assert found["components"]["unet"]["parameters"] == 792_964
    assert found["components"]["unet"]["dtype"] == "float16"
    assert found["scheduler"]["beta_end"] == 0.012
    assert set(found["targets"]) == {"ios", "android", "onnx"}
    assert all(target["possible"] for target in found["targets"].values())


def test_table_for_people(tiny_checkpoint: Path) -> None:
    result = CliRunner().invoke(app, [str(tiny_checkpoint)])
    assert result.exit_code == 0
    for text in ("UNet2DConditionModel", "792,964", "4 × 16 × 16", "epsilon", "PNDMScheduler", "content hash"):
        assert text in result.stdout


def test_notes_are_shown(tiny_checkpoint: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    config = copy / "unet/config.json"
    config.write_text(config.read_text().replace('"cross_attention_dim": 32', '"cross_attention_dim": 768'))
    result = CliRunner().invoke(app, [str(copy)])
    assert "note: unet: config says cross_attention_dim = 768, the tensors say 32" in result.stdout


def test_an_error_is_raised_for_the_program_to_print(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [str(tmp_path / "missing")])
    assert isinstance(result.exception, CheckpointError)
    assert result.stdout == ""


def test_what_apples_package_cannot_know(checkpoint: Checkpoint) -> None:
    assert judge(checkpoint, "ios").about_bundle == ()
    other = dataclasses.replace(
        checkpoint,
        prediction_type="v_prediction",
        scaling_factor=0.5,
        latent_channels=8,
        scheduler_config={**checkpoint.scheduler_config, "beta_end": 0.02, "beta_schedule": "linear"},
    )
    warnings = "\n".join(judge(other, "ios").about_bundle)
    for text in ("v_prediction", "beta_end is 0.02", "beta_schedule is linear", "factor is 0.5", "8 channels"):
        assert text in warnings
    assert judge(other, "ios").possible
    assert judge(other, "android").about_bundle == ()


def test_a_component_above_two_gigabytes_is_refused_for_android(checkpoint: Checkpoint) -> None:
    unet = dataclasses.replace(checkpoint.components["unet"], parameters=1_100_000_000)
    large = dataclasses.replace(checkpoint, components={**checkpoint.components, "unet": unet})
    verdict = judge(large, "android")
    assert not verdict.possible
    assert verdict.problems == (
        "a .tflite file has at most 2.15 GB: unet takes 2.20 GB in float16. Cut it: --chunks 3.",
    )
    assert judge(large, "ios").possible


def test_a_missing_library_comes_with_its_command(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdmobile.exporters.preflight.is_installed", lambda name: False)
    problem = "the target ios needs libraries that are not installed: coremltools. Run: pip install 'sdmobile[ios]'"
    assert judge(checkpoint, "ios").problems == (problem,)


def test_a_missing_tokenizer_is_a_problem(checkpoint: Checkpoint) -> None:
    verdict = judge(dataclasses.replace(checkpoint, tokenizer_dir=None), "onnx")
    assert "needs the checkpoint's tokenizer" in verdict.problems[0]
    assert "openai/clip-vit-large-patch14" in verdict.problems[0]


def test_commands_import_nothing_heavy() -> None:
    code = (
        "import sys, sdmobile.cli.inspect, sdmobile.cli.doctor, sdmobile.validate.environment; "
        "print([name for name in ('torch', 'diffusers', 'numpy', 'pydantic') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
