"""`sdmobile profile` and `sdmobile devices`: what they print, write and refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import sdmobile.formats.bundle.reading as bundle_module
from benchmarks.calibration.stable_diffusion import image_time, phones
from sdmobile.cli import app as cli
from sdmobile.cli.app import app
from sdmobile.cli.profile import unit_for
from sdmobile.cli.profile_view import seconds
from sdmobile.device_profiles import list_profiles, profile_path
from sdmobile.errors import UnsupportedError
from sdmobile.formats.bundle.reading import Bundle, open_bundle
from sdmobile.validate.measure import MeasureOptions, measure_bundle, sample_inputs
from tests.prediction.assessed import sd15, sd15_bundle

__all__ = ["sd15"]


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


@pytest.fixture
def folder(sd15: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of a bundle whose files are packaged graphs."""
    monkeypatch.setenv("SDMOBILE_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(bundle_module, "is_bundle", lambda path: True)
    monkeypatch.setattr(bundle_module, "open_bundle", lambda path, verify=True: sd15)
    return str(tmp_path)


def test_json_holds_the_prediction_and_no_measurement(folder: str) -> None:
    data = json.loads(invoke("profile", folder, "--top", "4", "--json"))
    assert list(data) == ["prediction"]
    found = data["prediction"]
    assert found["image"]["seconds"] == pytest.approx(image_time(phones()["galaxy-s23-ultra"].unit).seconds)
    assert len(found["costliest"]) == 4
    assert found["memory"][0]["sentence"].startswith("needs 3.8 GB")


def test_the_tables_say_that_they_are_predicted(folder: str) -> None:
    text = invoke("profile", folder)
    assert "predicted 11.5 s" in text
    assert "measured on" not in text
    assert "Predicted, not measured; least reliability of a value used: low." in text
    assert "arXiv 2304.11267" in text.replace("\n", " ")


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
    assert [seconds(value) for value in (11.5, 0.5482, 1.54e-3, 4.2e-6, 250.0, None)] == [
        "11.5 s", "548 ms", "1.54 ms", "4.2 µs", "250 s", "unknown",
    ]  # fmt: skip


def test_a_bundle_is_run_by_the_runtime_of_its_target(onnx_bundle: Path) -> None:
    bundle = open_bundle(onnx_bundle)
    told: list[str] = []
    found = measure_bundle(bundle, MeasureOptions(repeats=3, threads=1), told.append)
    assert [row.component for row in found.rows] == list(bundle.components)
    for row in found.rows:
        assert row.runtime == "ONNX Runtime, 1 threads"
        assert row.low is not None
        assert row.high is not None
        assert 0 < row.low <= row.seconds <= row.high < 60
    assert len(told) == len(found.rows)
    assert "predicted" not in str(found.to_json())


def test_inputs_have_the_shapes_of_the_file(onnx_bundle: Path) -> None:
    for component in open_bundle(onnx_bundle).components.values():
        inputs = sample_inputs(component)
        for name, array in component.contract.to_target(inputs).items():
            (spec,) = (spec for spec in component.contract.inputs if spec.name == name)
            assert array.shape == spec.shape
        again = sample_inputs(component)
        assert all(np.array_equal(inputs[name], again[name]) for name in inputs)


def test_list_and_show_have_every_fact_with_its_source() -> None:
    rows = {row["name"]: row for row in json.loads(invoke("devices", "list", "--json"))}
    assert tuple(rows) == list_profiles()
    assert rows["iphone-14-pro-max"]["predictable"][0] == "neural-engine"
    shown = json.loads(invoke("devices", "show", "iphone-14-pro-max", "--json"))
    facts = shown["facts"].values()
    assert all(fact["source"] and fact["reliability"] for fact in facts)
    known = sum(fact["value"] is not None for fact in facts)
    assert (known, len(facts) - known) == (
        rows["iphone-14-pro-max"]["known"],
        rows["iphone-14-pro-max"]["unknown"],
    )
    text = invoke("devices", "show", "iphone-14-pro-max")
    assert "3.1 GB" in text
    assert "unknown" in text
    assert invoke("devices", "show", "cpu", "--toml") == profile_path("cpu").read_text()


def test_compare_shows_what_differs() -> None:
    data = json.loads(invoke("devices", "compare", "iphone-14-pro-max", "iphone-15-pro", "--json"))
    facts = {row["name"]: row for row in data["facts"]}
    assert facts["hardware.app_memory"]["left"]["value"] == 3.1
    assert facts["hardware.app_memory"]["right"]["value"] == 3.3
    assert not any(row["equal"] for row in facts.values())
    everything = json.loads(invoke("devices", "compare", "iphone-14-pro-max", "iphone-15-pro", "--all", "--json"))
    assert len(everything["facts"]) > len(facts)


def test_check_names_every_problem_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    text = profile_path("iphone-15-pro").read_text()
    path.write_text(text)
    assert "is a valid profile" in invoke("devices", "check", str(path))
    path.write_text(text.replace("value = 35\n", "").replace('target = "ios"', 'target = "watch"'))
    result = CliRunner().invoke(app, ["devices", "check", str(path), "--json"])
    assert result.exit_code == 4
    data = json.loads(result.stdout)
    assert not data["valid"]
    assert {problem["place"] for problem in data["problems"]} == {"target", "hardware.neural_engine_peak"}
    assert all(problem["fix"] for problem in data["problems"])


def test_own_measurements_make_a_profile_that_predicts_them(folder: str, tmp_path: Path) -> None:
    measured = {"unet": 900.0, "text_encoder": 15.0, "vae_decoder": 850.0}
    for component, milliseconds in measured.items():
        invoke(
            "devices", "add-measurement", folder, "--component", component, "--milliseconds", str(milliseconds),
            "--place", "a phone",
        )  # fmt: skip
    stored = json.loads(invoke("devices", "measurements", "galaxy-s23-ultra", "--json"))
    assert {row["component"]: row["seconds"] for row in stored} == {
        name: pytest.approx(1e-3 * value) for name, value in measured.items()
    }
    output = tmp_path / "mine.toml"
    rows = json.loads(invoke("devices", "fit", "galaxy-s23-ultra", "-o", str(output), "--json"))["rows"]
    assert all(abs(row["predicted_after_seconds"] / row["measured_seconds"] - 1) < 0.15 for row in rows)
    found = json.loads(invoke("profile", folder, "--device", str(output), "--json"))["prediction"]
    unet = next(row for row in rows if row["component"] == "unet")
    assert found["components"]["unet"]["seconds"] == pytest.approx(unet["predicted_after_seconds"])


def test_measurements_of_something_else_are_left_out(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[dict[str, Any]] = [{"component": "unet", "seconds": 9, "place": "here", "runtime": "LiteRT, XNNPACK"}]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"rows": rows}))
    assert cli.run(["devices", "add-measurement", folder, "--from", str(path)]) == 5
    assert "says nothing about galaxy-s23-ultra, gpu" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
    rows.append({"component": "unet", "seconds": 0.9, "place": "a phone", "runtime": "adb gpu"})
    path.write_text(json.dumps({"rows": rows}))
    (kept,) = json.loads(invoke("devices", "add-measurement", folder, "--from", str(path), "--json"))
    assert kept["seconds"] == 0.9


def test_a_measurement_needs_its_three_parts(folder: str) -> None:
    assert CliRunner().invoke(app, ["devices", "add-measurement", folder, "--component", "unet"]).exit_code == 2


def test_a_fit_never_replaces_a_profile_by_itself(folder: str, tmp_path: Path) -> None:
    output = tmp_path / "mine.toml"
    output.write_text("kept")
    invoke("devices", "add-measurement", folder, "--component", "unet", "--milliseconds", "900", "--place", "a phone")
    assert cli.run(["devices", "fit", "galaxy-s23-ultra", "-o", str(output)]) == 6
    assert output.read_text() == "kept"
