"""The phone's latency in the ablation of rewrite rules: predicted from the files, apart from what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sdmobile.device_profiles import load_profile
from sdmobile.formats import graph as graph_module
from sdmobile.prediction.assess_device import choose_unit
from sdmobile.prediction.kernels import kernels_of
from sdmobile.prediction.latency import predict
from sdmobile.report.ablation import markdown, predicted_cells
from sdmobile.rewrites.ablation import BASELINE, AblationRow
from sdmobile.rewrites.cost import GraphCost
from sdmobile.validate.ablation import Ablation, Measured, Predicted, predictions
from tests.prediction.assessed import sd15_graph


def _subject(device: str) -> Any:
    return SimpleNamespace(profile=load_profile(device))


def _file(name: str) -> Any:
    return SimpleNamespace(path=Path(f"{name}.tflite"))


def _row(rule: str) -> AblationRow:
    return AblationRow(rule, 1, 0, GraphCost({"aten.mul": 3}, 0, 10, 10, "mul", 2), 90.0, 60.0)


def test_every_state_with_a_file_is_predicted_on_the_devices_first_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_module, "read_graph", sd15_graph)
    states = predictions(_subject("galaxy-s23-ultra"), [_file("vae_decoder"), _file("text_encoder")])
    unit = choose_unit("galaxy-s23-ultra")
    for state, name in zip(states, ("vae_decoder", "text_encoder"), strict=True):
        expected = predict(kernels_of(sd15_graph(Path(f"{name}.tflite")), unit.unit, unit.rules), unit.model)
        assert (state.device, state.unit) == ("galaxy-s23-ultra", "gpu")
        assert state.milliseconds == pytest.approx(1e3 * expected.seconds)
        bounds = [None if bound is None else pytest.approx(1e3 * bound) for bound in (expected.low, expected.high)]
        assert [state.low, state.high] == bounds


def test_without_files_or_units_nothing_is_predicted() -> None:
    assert predictions(_subject("galaxy-s23-ultra"), [None, None]) == ()
    assert predictions(_subject("android-cpu"), [_file("unet")]) == ()


def test_predicted_and_measured_are_apart_everywhere() -> None:
    rows = (_row(BASELINE), _row("some_rule"))
    measured = (Measured(milliseconds=(5.0,), clock="LiteRT on this CPU"), Measured(milliseconds=(4.0,)))
    predicted = (Predicted("phone", "gpu", 3.0, 2.0, 4.0), Predicted("phone", "gpu", 1.5, 1.0, 2.0))
    result = Ablation(rows, measured, predicted)
    objects = result.to_json()
    assert [cells[1:] for cells in predicted_cells(objects)] == [("3", "2 – 4", "1.00×"), ("1.5", "1 – 2", "2.00×")]
    text = markdown("heading", objects)
    here, phone = text.split("predicted for phone, gpu, from the files; not measured:")
    assert "| 5.0 |" in here
    assert "| 1.5 |" in phone
    assert "| 5.0 |" not in phone
    assert "-50.0%" in result.waterfall("heading")


def test_json_has_a_field_of_its_own() -> None:
    result = Ablation((_row("x"),), (Measured(milliseconds=(5.0,)),), (Predicted("phone", "gpu", 3.0),))
    (data,) = json.loads(json.dumps(result.to_json()))
    assert data["measured"]["median_ms"] == 5.0
    assert data["predicted"]["milliseconds"] == 3.0
    assert "milliseconds" not in data
