"""A user's own measurements: kept with their graphs, and fitted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from sdmobile.device_profiles import load_profile, profile_path
from sdmobile.errors import OutputError, UnsupportedError
from sdmobile.formats.bundle.reading import Bundle
from sdmobile.prediction.assess_device import ChosenUnit, choose_unit
from sdmobile.prediction.component_cost import predict_files
from sdmobile.prediction.latency import predict
from sdmobile.prediction.measurements import (
    Measurement,
    MeasurementError,
    belongs,
    load,
    measurement,
    read_rows,
    store,
)
from sdmobile.prediction.measurements_fit import refit, write_refitted
from tests.prediction.assessed import sd15, sd15_bundle, sd15_graph

__all__ = ["sd15"]


@pytest.fixture
def phone() -> ChosenUnit:
    return choose_unit("galaxy-s23-ultra")


def _measured(sd15: Bundle, phone: ChosenUnit, efficiency: float) -> list[Measurement]:
    """What a phone would measure whose dense kernels reach another share of the peak."""
    old = phone.model

    def slower(values: Mapping[str, float]) -> dict[str, float]:
        return {name: value * (1.0 if name == "depthwise" else efficiency) for name, value in values.items()}

    known = old.parameters
    own = replace(known, efficiency=slower(known.efficiency), fetch_rate=slower(known.fetch_rate))
    found = []
    for name, component in sd15.components.items():
        graph = sd15_graph(component.path)
        kernels, _ = predict_files([graph], phone)
        took = predict(kernels[0], replace(old, parameters=own)).seconds
        found.append(measurement(sd15, phone, name, took, "a phone", "adb gpu"))
    return found


def test_a_measurement_comes_back_as_it_was_stored(sd15: Bundle, phone: ChosenUnit, tmp_path: Path) -> None:
    made = measurement(sd15, phone, "unet", 0.9, "a phone, 20 °C", "adb gpu")
    path = store(made, tmp_path)
    assert store(made, tmp_path) == path  # the same again is no second one
    (found,) = load("galaxy-s23-ultra", tmp_path)
    assert found.to_json() == made.to_json()
    assert found.bundle == "hash unet"
    before, after = (predict_files(each.graphs, phone)[1].seconds for each in (made, found))
    assert after == before
    assert path.stat().st_size < 100_000  # the graph alone, no weights


def test_a_damaged_file_is_named(sd15: Bundle, phone: ChosenUnit, tmp_path: Path) -> None:
    path = store(measurement(sd15, phone, "vae_decoder", 0.5, "here", "adb gpu"), tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(MeasurementError, match=path.name):
        load("galaxy-s23-ultra", tmp_path)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_times_are_refused(sd15: Bundle, phone: ChosenUnit, seconds: float) -> None:
    with pytest.raises(MeasurementError, match="positive"):
        measurement(sd15, phone, "unet", seconds, "here", "adb gpu")


def test_what_does_not_belong_is_refused(sd15: Bundle, phone: ChosenUnit) -> None:
    with pytest.raises(UnsupportedError, match="text_encoder, unet"):
        measurement(sd15, phone, "safety_checker", 1.0, "here", "adb gpu")
    with pytest.raises(UnsupportedError, match="bundles for android"):
        measurement(sd15_bundle(target="ios"), phone, "unet", 1.0, "here", "adb gpu")
    assert belongs("adb gpu", phone)
    assert belongs("my own stopwatch", phone)
    assert not belongs("LiteRT.js webgpu 2.5.3 float16", phone)  # another engine than OpenCL's
    page = choose_unit("galaxy-s23-ultra", "webgpu", to_fit=True)
    assert belongs("LiteRT.js webgpu 2.5.3 float16", page)
    assert not belongs("LiteRT.js webgpu 2.5.3 float32", page)
    assert belongs("LiteRT.js webgpu 2.5.3 float32", choose_unit("galaxy-s23-ultra", "webgpu-float32", to_fit=True))
    assert not belongs("my own stopwatch", page)
    assert not belongs("adb cpu", phone)
    assert not belongs("LiteRT, XNNPACK", phone)
    assert not belongs("ONNX Runtime", phone)
    assert belongs("coreml-ne", choose_unit("iphone-15-pro"))
    assert not belongs("coreml-gpu", choose_unit("iphone-15-pro"))


def test_rows_are_read_from_both_forms(tmp_path: Path) -> None:
    plain = tmp_path / "rows.json"
    plain.write_text('{"rows": [{"component": "unet", "milliseconds": 500, "place": "phone", "runtime": "adb gpu"}]}')
    (row,) = read_rows(plain)
    assert (row.component, row.seconds, row.place) == ("unet", pytest.approx(0.5), "phone")
    printed = {
        "prediction": {},
        "measurement": {"rows": [{"component": "unet", "seconds": 0.4, "place": "here", "runtime": "x"}]},
    }
    plain.write_text(json.dumps(printed))
    assert read_rows(plain)[0].seconds == 0.4


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"rows": [{"component": "unet", "place": "x"}]}',
        '{"rows": [{"predicted": true, "component": "unet", "seconds": 1, "place": "x"}]}',
        '{"rows": ["unet"]}',
        '{"rows": [{"component": "unet", "seconds": 1, "place": "phone"}]}',
        '{"rows": [{"component": "unet", "seconds": 1, "place": "phone", "runtime": " "}]}',
        '{"rows": [{"component": "unet", "seconds": 1, "place": "phone", "runtime": "LiteRT.js webgpu, SwiftShader"}]}',
    ],
)
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(MeasurementError):
        read_rows(path)


def test_a_fit_finds_the_phone_that_made_the_times(sd15: Bundle, phone: ChosenUnit) -> None:
    rows = _measured(sd15, phone, 0.6)
    result = refit(phone, rows)
    before = result.before / [row.seconds for row in rows]
    after = result.after / [row.seconds for row in rows]
    assert max(abs(before - 1)) > 0.3
    assert after == pytest.approx([1.0] * len(rows), abs=0.05)
    old = phone.model.parameters.fetch_rate
    assert result.values["fetch_rate.conv"] == pytest.approx(0.6 * old["conv"], rel=0.1)
    assert result.values["fetch_rate.winograd"] == pytest.approx(0.6 * old["winograd"], rel=0.1)
    assert result.values["fetch_rate.winograd"] == result.values["fetch_rate.matmul"]
    assert result.quality is not None
    assert result.quality.median < 0.1


def test_few_rows_give_no_error_of_rows_left_out(sd15: Bundle, phone: ChosenUnit) -> None:
    result = refit(phone, _measured(sd15, phone, 0.8)[:2])
    assert result.left_out is None
    assert "low" not in result.values
    with pytest.raises(MeasurementError, match="add-measurement"):
        refit(choose_unit("galaxy-s23-ultra", "tflite-gpu"), _measured(sd15, phone, 0.8))


def test_a_refitted_profile_is_a_new_file_with_other_values_only(
    sd15: Bundle, phone: ChosenUnit, tmp_path: Path
) -> None:
    result = refit(phone, _measured(sd15, phone, 0.6))
    source, output = profile_path("galaxy-s23-ultra"), tmp_path / "mine.toml"
    original = source.read_bytes()
    write_refitted(source, "gpu", result, output)
    assert source.read_bytes() == original
    found, old = load_profile(str(output)), phone.profile
    assert found.name == "mine"
    assert found.latency["tflite-gpu"] == old.latency["tflite-gpu"]
    assert found.model_copy(update={"name": old.name, "latency": old.latency}) == old
    assert found.latency["gpu"].bandwidth.value == result.values["bandwidth"]
    assert "own measurements" in found.latency["gpu"].efficiency["conv"].source
    _, prediction = predict_files(result.measurements[1].graphs, choose_unit(str(output)))
    assert prediction.seconds == pytest.approx(result.after[1])
    with pytest.raises(OutputError, match="must not exist"):
        write_refitted(source, "gpu", result, output)
    with pytest.raises(OutputError):
        write_refitted(output, "gpu", result, output, overwrite=True)


def test_values_that_are_not_tables_of_their_own_are_not_lost(sd15: Bundle, phone: ChosenUnit, tmp_path: Path) -> None:
    text = profile_path("galaxy-s23-ultra").read_text()
    start = text.index("[latency.gpu.dispatch]")
    block = text[start : text.index("[latency.gpu.fixed]")]
    inline = '[latency.gpu]\ndispatch = {value = 1e-6, unit = "s", source = "x", reliability = "low"}\n\n'
    source = tmp_path / "inline.toml"
    source.write_text(text.replace(block, inline))
    result = refit(phone, _measured(sd15, phone, 0.6))
    with pytest.raises(MeasurementError, match=r"latency\.gpu\.dispatch"):
        write_refitted(source, "gpu", result, tmp_path / "out.toml")
    assert not (tmp_path / "out.toml").exists()
