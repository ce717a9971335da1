from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from sdmobile import __version__
from sdmobile.basics.metrics import to_pixels
from sdmobile.checkpoints import open_checkpoint
from sdmobile.cli.generate import generate
from sdmobile.errors import CheckpointError, OutputError, UnsupportedError
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.sampling import SampleRequest, sample
from sdmobile.reference.torch_runner import TorchRunner
from tests.checkpoints.pictures import diffusers_picture, pipeline_of


def run(*arguments: object) -> Result:
    app = typer.Typer()
    app.command()(generate)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file), dtype=np.int16)


def test_a_checkpoint_is_run_by_torch_and_the_text_tells_how(tiny_checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "new" / "picture.png"
    prompt = "a red circle – 円"
    options = ["--negative", "blue", "--steps", 4, "--seed", 7, "--guidance", 5, "--scheduler", "ddim", "-o", file]
    result = run(tiny_checkpoint, "--prompt", prompt, *options)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(file)
    checkpoint = open_checkpoint(tiny_checkpoint)
    assert Image.open(file).info == {
        "prompt": prompt,
        "negative": "blue",
        "seed": "7",
        "steps": "4",
        "guidance": "5",
        "scheduler": "ddim",
        "runtime": "torch",
        "model_hash": checkpoint.content_hash,
        "sdmobile": __version__,
    }
    request = SampleRequest(prompt, "blue", 4, 7, 5.0, "ddim")
    expected = sample(TorchRunner(checkpoint), PipelineSpec.from_checkpoint(checkpoint), request)
    np.testing.assert_array_equal(pixels(file), to_pixels(expected.image))


def test_exported_files_make_the_picture_of_torch(onnx_bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    asked = ["--prompt", "a red circle", "--steps", 4, "--seed", 1]
    assert run(onnx_bundle, *asked, "-o", tmp_path / "ort.png", "--threads", 1).exit_code == 0
    torch = ["--runtime", "torch", "--reference", tiny_checkpoint, "-o", tmp_path / "torch.png"]
    assert run(onnx_bundle, *asked, *torch).exit_code == 0
    assert np.abs(pixels(tmp_path / "ort.png") - pixels(tmp_path / "torch.png")).max() <= 1
    texts = Image.open(tmp_path / "ort.png").info
    assert (texts["runtime"], texts["scheduler"]) == ("ort", "PNDMScheduler")
    manifest = json.loads((onnx_bundle / "manifest.json").read_text("utf-8"))
    assert texts["model_hash"] == manifest["source"]["content_hash"]
    assert run(onnx_bundle, *asked[:-1], 2, "-o", tmp_path / "other.png").exit_code == 0
    assert np.abs(pixels(tmp_path / "ort.png") - pixels(tmp_path / "other.png")).max() > 20


def test_a_checkpoint_draws_in_the_size_that_is_asked_for_as_diffusers_does(
    tiny_checkpoint: Path, onnx_bundle: Path, tmp_path: Path
) -> None:
    request = SampleRequest("a red circle", "blue", 2, 5, 4.0, "ddim")
    asked = ["--prompt", request.prompt, "--negative", "blue", "--steps", 2, "--seed", 5, "--guidance", 4]
    drawn = run(tiny_checkpoint, *asked, "--scheduler", "ddim", "--resolution", "48x32", "-o", tmp_path / "wide.png")
    assert drawn.exit_code == 0, drawn.output
    wide = pixels(tmp_path / "wide.png")
    assert wide.shape == (32, 48, 3)
    theirs = diffusers_picture(pipeline_of(tiny_checkpoint), request, size=(32, 48))
    assert np.abs(wide - to_pixels(theirs)).max() <= 1
    for wrong, told in (("48x33", "multiple of 2"), ("0", "positive"), ("wide", "WIDTHxHEIGHT")):
        assert told in str(run(tiny_checkpoint, *asked, "--resolution", wrong, "-o", tmp_path / "x.png").exception)
    for more in ([], ["--runtime", "torch", "--reference", tiny_checkpoint]):
        refused = run(onnx_bundle, *asked, "--resolution", "48x32", "-o", tmp_path / "x.png", *more)
        assert isinstance(refused.exception, UnsupportedError)
        assert "draws 32x32 pixels. Leave --resolution out, or export again" in str(refused.exception)
    assert not (tmp_path / "x.png").exists()


def test_an_existing_picture_is_kept_unless_asked(tiny_checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    file.write_bytes(b"mine")
    asked = [tiny_checkpoint, "--prompt", "a red circle", "--steps", 1, "-o", file]
    result = run(*asked)
    assert isinstance(result.exception, OutputError)
    assert "--overwrite" in str(result.exception)
    assert file.read_bytes() == b"mine"
    assert run(*asked, "--overwrite").exit_code == 0
    assert pixels(file).shape == (32, 32, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def test_what_cannot_run_is_refused_and_nothing_is_written(
    onnx_bundle: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    file = tmp_path / "picture.png"
    asked = ["--prompt", "a red circle", "-o", file]
    assert isinstance(run(tiny_checkpoint, *asked, "--runtime", "litert").exception, UnsupportedError)
    assert isinstance(run(onnx_bundle, *asked, "--runtime", "litert").exception, UnsupportedError)
    assert isinstance(run(onnx_bundle, *asked, "--runtime", "torch").exception, CheckpointError)
    assert isinstance(run(tmp_path / "nowhere", *asked).exception, CheckpointError)
    assert not file.exists()


@pytest.mark.parametrize("arguments", [[], ["--prompt", "x", "--steps", 0], ["--prompt", "x", "--seed", 2**32]])
def test_usage(tiny_checkpoint: Path, arguments: list[object]) -> None:
    assert run(tiny_checkpoint, *arguments).exit_code == 2
