"""Measuring on this machine: what is timed, what is reported, what is not run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdmobile.formats.bundle.reading import Bundle, open_bundle
from sdmobile.validate import measure, phone
from sdmobile.validate.checks import ExtraCheck, Status
from sdmobile.validate.measure import MeasureOptions, measure_bundle, sample_inputs, timed
from tests.prediction.assessed import sd15_bundle


class _Clock:
    """A clock that a fake runner moves: each run takes a millisecond more than the last, half of one to cross."""

    crossing = 0.5e-3

    def __init__(self) -> None:
        self.now, self.runs = 0.0, 0

    def run(self, component: str, inputs: Any) -> dict[str, Any]:
        self.runs += 1
        self.now += 1e-3 * self.runs
        return {}


def test_the_warm_up_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock()
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock.now)
    found = timed(clock, "unet", {}, MeasureOptions(repeats=3, warmup=2))  # pyright: ignore[reportArgumentType]
    assert clock.runs == 5
    assert found == pytest.approx([2.5e-3, 3.5e-3, 4.5e-3])


def test_median_and_spread() -> None:
    row = measure.measured_time("unet", "litert", [0.4, 0.1, 0.2, 0.3, 10.0], 2, "")
    assert row.seconds == 0.3
    assert (row.low, row.high) == pytest.approx((0.14, 6.16))  # 10th and 90th percentile
    assert (row.runs, row.runtime) == (5, "LiteRT, XNNPACK, 2 threads")
    assert row.to_json()["measured"] is True


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML runs here")
def test_core_ml_is_not_run_elsewhere() -> None:
    measured = measure_bundle(sd15_bundle(target="ios"), MeasureOptions(), lambda _: None)
    assert measured.rows == ()
    assert [line.split(":")[0] for line in measured.not_run] == ["coreml-cpu", "coreml-gpu", "coreml-ne"]


def test_what_a_phone_measured_and_what_it_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [
        ExtraCheck(
            "adb gpu", "unet", Status.PASSED, "Phone", figures={"average_ms": 500.0, "best_ms": 480.0, "runs": 5.0}
        ),
        ExtraCheck(
            "adb gpu", "vae_decoder", Status.FAILED, "Phone", "the GPU took 3 of 9 nodes", figures={"average_ms": 90.0}
        ),
        ExtraCheck("adb cpu", "unet", Status.ERROR, "Phone", "no room"),
    ]
    monkeypatch.setattr(phone, "phone_checker", lambda program, serial: lambda *_: checks)
    monkeypatch.setattr(measure, "times_by_runtime", lambda *_: iter(()))
    options = MeasureOptions(benchmark_model=Path("benchmark_model"))
    measured = measure_bundle(_android(), options, lambda _: None)
    assert [(row.component, row.seconds, row.place, row.runs) for row in measured.rows] == [
        ("unet", pytest.approx(0.5), "Phone", 5),
        ("vae_decoder", pytest.approx(0.09), "Phone", None),
    ]
    assert measured.rows[0].remark == "mean; best 480.0 ms"
    assert "3 of 9" in measured.rows[1].remark
    assert measured.not_run == ("unet, adb cpu: no room",)


def _android() -> Bundle:
    return sd15_bundle()


def test_a_bundle_is_run_by_the_runtime_of_its_target(onnx_bundle: Path) -> None:
    bundle = open_bundle(onnx_bundle)
    told: list[str] = []
    measured = measure_bundle(bundle, MeasureOptions(repeats=3, threads=1), told.append)
    assert [row.component for row in measured.rows] == list(bundle.components)
    for row in measured.rows:
        assert row.runtime == "ONNX Runtime, 1 threads"
        assert row.low is not None
        assert row.high is not None
        assert 0 < row.low <= row.seconds <= row.high < 60
    assert len(told) == len(measured.rows)
    assert "predicted" not in str(measured.to_json())


def test_inputs_have_the_shapes_of_the_file(onnx_bundle: Path) -> None:
    for component in open_bundle(onnx_bundle).components.values():
        inputs = sample_inputs(component)
        for name, array in component.contract.to_target(inputs).items():
            (spec,) = (spec for spec in component.contract.inputs if spec.name == name)
            assert array.shape == spec.shape
        again = sample_inputs(component)
        assert all(np.array_equal(inputs[name], again[name]) for name in inputs)
