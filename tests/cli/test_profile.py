"""`sdmobile profile`: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.calibration.stable_diffusion import image_time
from sdmobile.basics.words import short_time
from sdmobile.cli import app as cli
from sdmobile.cli.app import app
from sdmobile.cli.profile import unit_for
from sdmobile.errors import UnsupportedError
from sdmobile.formats.bundle.reading import open_bundle
from sdmobile.prediction.assess_device import choose_unit
from tests.prediction.assessed import sd15, sd15_bundle

__all__ = ["sd15"]


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_json_holds_the_prediction_and_no_measurement(folder: str) -> None:
    data = json.loads(invoke("profile", folder, "--top", "4", "--json"))
    assert list(data) == ["prediction"]
    prediction = data["prediction"]
    assert prediction["image"]["seconds"] == pytest.approx(image_time(choose_unit("galaxy-s23-ultra").model).seconds)
    assert len(prediction["costliest"]) == 4
    assert prediction["memory"][0]["sentence"].startswith("needs 3.6 GB")
    assert list(prediction["precisions"]) == ["FP16", "FP16_WITH_FP32_ACCUM", "FP32"]
    assert prediction["components"]["unet"]["precisions"]["FP32"]["most_seconds"] > 1.0


def test_the_tables_say_that_they_are_predicted(folder: str) -> None:
    text = invoke("profile", folder)
    assert "predicted 11.5 s" in text
    assert "measured on" not in text
    assert "Predicted, not measured; least reliability of a value used: low." in text
    assert "arXiv 2304.11267" in text.replace("\n", " ")
    assert "21.2 s – 28.1 s" in text  # an image in FP32, as docs/latency-model.md says
    assert "twice as much or more in FP32" in text.replace("\n", " ")


def test_trace_and_plot_are_written(folder: str, tmp_path: Path) -> None:
    trace, plot = tmp_path / "trace.json", tmp_path / "roof.svg"
    invoke("profile", folder, "--top", "0", "--trace", str(trace), "--plot", str(plot))
    events = json.loads(trace.read_text())["traceEvents"]
    assert {event["pid"] for event in events} == {1, 2, 3, 4}
    assert plot.read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--device", "iphone-14-pro-max"), 5, "export again with --target ios"),
        (("--device", "iphone-14-pro"), 5, "Did you mean iphone-14-pro-max?"),
        (("--device", "none.toml"), 4, "none.toml"),
        (("--unit", "npu"), 5, "Known are gpu, tflite-gpu"),
        (("--unit", "tflite-gpu"), 5, "--plain-ops"),
        (("--guidance", "both"), 5, "batch2, separate, none"),
        (("--plot", "roof.png"), 5, "FILE.svg"),
        (("--trace", "missing/trace.json"), 6, "folder of --trace"),
    ],
)
def test_what_is_refused(
    folder: str, arguments: tuple[str, str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["profile", folder, *arguments]) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("name", ["", "nothing"])
def test_a_path_that_is_neither_bundle_nor_checkpoint(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["profile", str(tmp_path / name)]) == 5
    assert "must be a bundle" in capsys.readouterr().err


def test_files_without_a_model_are_measured_all_the_same(onnx_bundle: Path) -> None:
    data = json.loads(invoke("profile", str(onnx_bundle), "--measure", "--repeats", "2", "--json"))
    assert data["prediction"] is None
    rows = data["measurement"]["rows"]
    assert [row["component"] for row in rows] == list(open_bundle(onnx_bundle).components)
    assert all(row["measured"] and row["seconds"] > 0 and row["place"].startswith("this machine") for row in rows)


def test_the_device_is_the_bundles_own_or_that_of_its_target(onnx_bundle: Path) -> None:
    assert unit_for(sd15_bundle(), None, None).profile.name == "galaxy-s23-ultra"
    with pytest.raises(UnsupportedError):
        unit_for(sd15_bundle(target="onnx"), "galaxy-s23-ultra", None)


def test_times_are_short_and_right() -> None:
    assert [short_time(value) for value in (11.5, 0.5482, 1.54e-3, 4.2e-6, 250.0, None)] == [
        "11.5 s", "548 ms", "1.54 ms", "4.2 µs", "250 s", "unknown",
    ]  # fmt: skip
