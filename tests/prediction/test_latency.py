"""The latency model against its equation worked out by hand, and what holds for any parameters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from benchmarks.calibration.stored import stored_graph
from sdmobile.device_profiles.costs_schema import Latency, Unit
from sdmobile.device_profiles.fact import Fact
from sdmobile.device_profiles.runtime_rules.kernel import CATEGORIES, Category, Kernel
from sdmobile.errors import UnsupportedError
from sdmobile.formats.graph.graph import one_row
from sdmobile.prediction.kernels import kernels_of
from sdmobile.prediction.latency import (
    FirstRun,
    Parameters,
    Prediction,
    UnitModel,
    concatenate,
    features,
    predict,
    seconds,
    totals,
    unit_model,
)
from sdmobile.prediction.pipeline_time import end_to_end

_PARAMETERS = Parameters({"conv": 0.5, "matmul": 0.25}, bandwidth=1e9, dispatch=1e-5, fixed=2e-3)
_UNIT = UnitModel("gpu", 1e12, _PARAMETERS, low=0.9, high=1.2)


def _kernel(
    category: Category = "conv", macs: int = 0, read: int = 0, write: int = 0, weights: int = 0, launches: int = 1
) -> Kernel:
    return Kernel(category, "block.conv", (0,), macs, macs, read, write, weights, launches)


def test_a_prediction_is_the_equation() -> None:
    kernels = [
        _kernel("conv", macs=10**9, read=10**5, write=10**5),  # 2 ms of arithmetic, 0.2 ms of memory
        _kernel("matmul", macs=10**6, read=3 * 10**6, write=10**6, weights=10**6),  # 5 ms of memory
        _kernel("copy", read=1000, write=1000, launches=3),  # 2 µs of memory, 30 µs of dispatches
    ]
    prediction = predict(kernels, _UNIT)
    assert [time.seconds for time in prediction.times] == pytest.approx([2.01e-3, 5.01e-3, 32e-6])
    assert [time.bound for time in prediction.times] == ["compute", "memory", "dispatch"]
    assert prediction.seconds == pytest.approx(9.052e-3)
    assert (prediction.low, prediction.high) == pytest.approx((0.9 * 9.052e-3, 1.2 * 9.052e-3))
    assert list(prediction.by_category()) == ["matmul", "conv", "copy"]
    assert prediction.by_module() == pytest.approx({"block.conv": 7.052e-3})
    assert [time.kernel for time in prediction.costliest(2)] == [kernels[1], kernels[0]]


def test_small_results_do_not_fill_a_unit() -> None:
    """With as many items of four float16 channels as the saturation, arithmetic takes twice as long."""
    kernel = _kernel("conv", macs=10**9, write=8 * 500)
    filled = replace(_PARAMETERS, saturation=500.0)
    plain, small = (seconds(features([kernel]), 1e12, parameters)[0] for parameters in (_PARAMETERS, filled))
    assert small - plain == pytest.approx(2e-3)


def test_several_models_at_once_are_the_same_as_one_by_one() -> None:
    models = [[_kernel(macs=m * 10**8, write=8000) for m in range(1, n)] for n in (2, 5, 9)]
    joined, starts = concatenate([features(model) for model in models])
    assert totals(joined, starts, 1e12, _PARAMETERS) == pytest.approx(
        [predict(model, _UNIT).seconds for model in models]
    )


def test_arithmetic_without_an_efficiency_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="norm"):
        predict([_kernel("norm", macs=5)], _UNIT)


def test_first_runs_are_unknown_unless_measured() -> None:
    kernels = [_kernel(macs=1, weights=600), _kernel(macs=1, weights=600), _kernel(macs=2, weights=800)]
    assert predict(kernels, _UNIT).first_run == FirstRun(None, None)
    assert predict(kernels, _UNIT).to_json()["load_seconds"] == "unknown"
    known = replace(_UNIT, load_bandwidth=1000.0, compile=0.5)
    assert predict(kernels, known).first_run == FirstRun(load=2.0, compile=1.0)  # two distinct kernels


def test_json_says_that_it_is_predicted() -> None:
    stored = predict([_kernel(macs=10**9, write=8)] * 3, _UNIT).to_json(count=1)
    assert stored["predicted"] is True
    assert (stored["kernels"], stored["launches"], stored["macs"]) == (3, 3, 3 * 10**9)
    assert [item["bound"] for item in stored["costliest"]] == ["compute"]


_WORK = st.tuples(
    st.sampled_from(CATEGORIES), st.integers(0, 10**12), st.integers(0, 10**9), st.integers(0, 10**9), st.integers(1, 9)
)
_EVERY = Parameters(dict.fromkeys(CATEGORIES, 0.3), 3e10, 1e-5, 1e-3, saturation=1e4)


@settings(max_examples=50, deadline=None)
@given(st.lists(_WORK, min_size=1, max_size=8), st.floats(1.0, 4.0))
def test_more_of_anything_is_never_faster_and_a_faster_unit_never_slower(work: list, factor: float) -> None:
    kernels = [_kernel(c, macs=m, read=r, write=w, launches=n) for c, m, r, w, n in work]
    known = features(kernels)
    base = seconds(known, 1e12, _EVERY)
    for field in ("macs", "bytes", "launches"):
        assert (seconds(replace(known, **{field: getattr(known, field) * factor}), 1e12, _EVERY) >= base).all()
    assert (seconds(known, factor * 1e12, _EVERY) <= base).all()
    assert (seconds(known, 1e12, replace(_EVERY, bandwidth=factor * 3e10)) <= base).all()
    assert (base >= _EVERY.dispatch * known.launches).all()
    assert np.isfinite(base).all()


def _predicted(took: float) -> Prediction:
    return Prediction("gpu", (), took, 0.5 * took, 2.0 * took)


def test_an_image_is_prompts_steps_and_a_decoder() -> None:
    text, unet, decoder = _predicted(0.01), _predicted(0.4), _predicted(0.5)
    batch2 = end_to_end(text, unet, decoder, steps=20, guidance="batch2")
    assert (batch2.text, batch2.unet, batch2.decoder) == pytest.approx((0.02, 8.0, 0.5))
    assert (batch2.seconds, batch2.low, batch2.high) == pytest.approx((8.52, 4.26, 17.04))
    assert end_to_end(text, unet, decoder, 20, "two_calls").seconds == pytest.approx(16.52)
    assert end_to_end(text, unet, decoder, 20, "none").seconds == pytest.approx(8.51)
    assert end_to_end(text, unet, decoder, 20, "batch2", text_calls=1).seconds == pytest.approx(8.51)


def test_two_calls_compute_more_than_one_of_both_images() -> None:
    """At batch 1 the 32x32 level has too few tiles for Winograd's method in ML Drift: 64.17 GMACs stay direct."""
    graph = stored_graph("sd15_512_unet")
    unit = Unit(runtime="ml-drift", gpu="adreno7xx", peak_macs=_fact(1e12), dram_bandwidth=_fact(6e10))
    model = UnitModel("gpu", 1e12, Parameters(dict.fromkeys(CATEGORIES, 1.0), 1e18, 0.0, 0.0))
    single, batch2 = (predict(kernels_of(known, unit), model).seconds for known in (one_row(graph), graph))
    assert 2 * single - batch2 == pytest.approx(2 * 0.75 * (132.12 - 67.95) * 1e-3, abs=2e-5)


def _fact(value: float | None) -> Fact:
    return Fact(value=value, source="test", reliability="unknown" if value is None else "low")


def test_a_unit_comes_from_its_two_tables() -> None:
    unit = Unit(runtime="ml-drift", gpu="adreno7xx", peak_macs=_fact(1e12), dram_bandwidth=_fact(6e10))
    stored = {"bandwidth": 1e9, "dispatch": 1e-5, "fixed": 2e-3, "low": 0.9, "high": 1.2}
    latency = Latency(
        efficiency={"conv": _fact(0.5), "matmul": _fact(0.25)},
        load_bandwidth=_fact(None),
        **{name: _fact(value) for name, value in stored.items()},  # pyright: ignore
    )
    assert unit_model("gpu", unit, latency) == _UNIT
    with pytest.raises(UnsupportedError, match="peak"):
        unit_model("gpu", unit.model_copy(update={"peak_macs": _fact(None)}), latency)
    with pytest.raises(ValidationError, match="bandwidth"):
        Latency.model_validate({**latency.model_dump(), "bandwidth": _fact(-1.0)})
