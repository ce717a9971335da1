from __future__ import annotations

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from sdmobile.cli.validate import validate
from sdmobile.errors import EXIT_BELOW_THRESHOLD, EXIT_CHECKPOINT, SdmobileError
from tests.families import COMPONENTS
from tests.validate.bundles import copy_bundle, damage_weights


def run(*arguments: object) -> Result:
    app = typer.Typer()
    app.command()(validate)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def quick(tiny_checkpoint: Path, tmp_path: Path) -> list[object]:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\n\n  a blue square \n", "utf-8")
    return [
        "--reference",
        tiny_checkpoint,
        "--steps",
        3,
        "--max-samples",
        2,
        "--prompts",
        prompts,
        "--threads",
        1,
        "--no-cache",
    ]


def test_json_alone_is_on_stdout(onnx_bundle: Path, quick: list[object]) -> None:
    result = run(onnx_bundle, *quick, "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert data["passed"] is data["complete"] is True
    assert data["settings"]["prompts"] == ["a red circle", "a blue square"]
    assert data["settings"]["steps"] == 3
    assert tuple(check["component"] for check in data["components"]) == COMPONENTS
    assert all(check["worst"]["psnr_db"] > 100 and len(check["samples"]) == 2 for check in data["components"])
    assert all(check["image_psnr_db"] > 90 for check in data["trajectories"])


def test_junit_and_markdown_are_alone_on_stdout(onnx_bundle: Path, quick: list[object]) -> None:
    text = [*quick, "--no-trajectory", "--components", "text_encoder"]
    junit = run(onnx_bundle, *text, "--format", "junit")
    root = ElementTree.fromstring(junit.stdout)
    names = [case.attrib["name"] for case in root.iter("testcase")]
    extras = ["bundle", "bundle", "text_encoder"]  # manifest, tokenizer, weights
    assert names == [*COMPONENTS, "seed 0: a red circle", "seed 1: a blue square", *extras]
    assert root.attrib["failures"] == root.attrib["errors"] == "0"
    markdown = run(onnx_bundle, *text, "--format", "markdown")
    assert markdown.stdout.startswith("## tiny for onnx: **passed**\n")
    assert run(onnx_bundle, *text, "--format", "yaml").exit_code == 2


def test_a_thresholds_file_decides(onnx_bundle: Path, quick: list[object], tmp_path: Path) -> None:
    text = [*quick, "--no-trajectory", "--components", "text_encoder"]
    file = tmp_path / "limits.toml"
    file.write_text("[component.text_encoder.runtime.ort]\ncomponent_db = 500\n", "utf-8")
    result = run(onnx_bundle, *text, "--thresholds", file)
    assert result.exit_code == EXIT_BELOW_THRESHOLD
    assert "at least 500 dB needed" in result.stderr
    assert run(onnx_bundle, *text, "--thresholds", file, "--threshold-db", 1).exit_code == 2


def test_the_table_names_components_and_figures(onnx_bundle: Path, quick: list[object]) -> None:
    result = run(onnx_bundle, *quick, "--no-trajectory", "--components", "text_encoder,vae_decoder")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("passed") == 2 + 4  # manifest, tokenizer, the weights of both
    assert "parameters 36" in result.stdout
    assert "not run: --no-trajectory" in result.stdout
    assert "not run: not among --components" in result.stdout


def test_below_threshold_is_exit_code_3_after_the_table(onnx_bundle: Path, quick: list[object], tmp_path: Path) -> None:
    folder = copy_bundle(onnx_bundle, tmp_path / "bundle")
    damage_weights(folder, "text_encoder.onnx", 1.1)
    result = run(folder, *quick, "--json")
    assert result.exit_code == EXIT_BELOW_THRESHOLD
    data = json.loads(result.stdout)
    assert [check["status"] for check in data["components"]] == ["failed", "passed", "passed", "passed"]
    level = data["components"][0]["worst"]["psnr_db"]
    assert f"text_encoder on ort: {level:.1f} dB, at least 60 dB needed" in result.stderr
    quick += ["--no-trajectory", "--components", "text_encoder"]
    lower = run(folder, *quick, "--threshold-db", math.floor(level))
    assert "dB needed" not in lower.stderr
    assert "text_encoder, weights: " in lower.stderr  # no threshold makes other weights the checkpoint's
    higher = run(folder, *quick, "--threshold-db", math.ceil(level))
    assert "dB needed" in higher.stderr
    assert higher.exit_code == EXIT_BELOW_THRESHOLD


def test_the_report_folder(onnx_bundle: Path, quick: list[object], tmp_path: Path) -> None:
    folder = tmp_path / "report" / "new"
    assert run(onnx_bundle, *quick, "-o", folder).exit_code == 0
    names = sorted(file.name for file in folder.iterdir())
    pictures = [f"prompt-{i}-{who}.png" for i in (1, 2) for who in ("ort", "torch")]
    texts = [f"validation.{kind}" for kind in ("json", "md", "xml")]
    assert names == ["README.md", *pictures, "report.html", *texts]
    assert Image.open(folder / "prompt-1-ort.png").size == (32, 32)
    assert json.loads((folder / "validation.json").read_text("utf-8"))["passed"] is True
    assert "tiny for onnx" in (folder / "report.html").read_text("utf-8")


def test_a_damaged_bundle_is_an_error_before_anything_runs(
    onnx_bundle: Path, quick: list[object], tmp_path: Path
) -> None:
    folder = copy_bundle(onnx_bundle, tmp_path / "bundle")
    (folder / "unet.onnx").write_bytes(b"damaged")
    result = run(folder, *quick, "-o", tmp_path / "report")
    assert isinstance(result.exception, SdmobileError)
    assert result.exception.exit_code == EXIT_CHECKPOINT
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("content", [None, "", " \n\n"])
def test_prompts_must_be_there(onnx_bundle: Path, tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "prompts.txt"
    if content is not None:
        file.write_text(content, "utf-8")
    result = run(onnx_bundle, "--prompts", file)
    assert result.exit_code == 2
    assert "one prompt per line" in " ".join(result.stderr.split())
