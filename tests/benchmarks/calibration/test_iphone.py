"""The fits of the iPhones' units: what they reproduce, that rows left out were not seen, and the profiles' tables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.calibration import iphone_metal
from benchmarks.calibration.iphone import PhoneFit, fitted, parameters, predict_row
from benchmarks.calibration.iphone_rows import (
    CHIPS,
    kernels,
    phone_graph,
    phone_graphs,
    phone_rows,
    published,
)
from sdmobile.device_profiles import load_profile
from sdmobile.prediction.kernels import kernels_of
from sdmobile.prediction.kernels.core_ml import macs
from sdmobile.prediction.latency import predict, unit_model


@pytest.fixture(scope="module")
def engine() -> PhoneFit:
    return fitted("neural-engine")


def test_the_graphs_have_the_published_arithmetic() -> None:
    # MobileNetV4 Table 6 and derived counts of Stable Diffusion 1.5; in 10⁹ multiply-accumulates
    expected = {
        "mobilenet_v2_100": (0.3, 0.05),
        "mobilenet_v2_200": (1.1, 0.06),
        "mobileone_s0": (0.3, 0.05),
        "fastvit_sa12": (1.9, 0.05),
        "efficientvit_b3": (4.0, 0.05),
        "sd15_512_text_encoder": (6.65, 0.005),
        "sd15_512_unet": (2 * 401.64, 0.01),
        "sd15_512_vae_decoder": (1257.26, 0.005),
    }
    for name, (count, tolerance) in expected.items():
        graph = phone_graph(name)
        total = sum(macs(graph, operation) for operation in graph.operations) / 1e9
        assert total == pytest.approx(count, abs=tolerance), name
    assert set(expected) <= set(phone_graphs())


def test_rows_name_known_chips_and_say_where_they_come_from() -> None:
    for row in published():
        assert row.chip in CHIPS
        assert row.source
        assert row.seconds > 0
    assert {row.graph for row in phone_rows()} <= {row.graph for row in published()}


def test_compressed_weights_are_read_as_stored() -> None:
    row = next(row for row in phone_rows() if row.weight_bits == 6)
    full = sum(kernel.weight_bytes for kernel in kernels(replace(row, weight_bits=16)))
    assert sum(kernel.weight_bytes for kernel in kernels(row)) == pytest.approx(full * 6 / 16, rel=1e-4)


def test_the_neural_engine_is_predicted_within_the_error_that_the_profile_states(engine: PhoneFit) -> None:
    measured = np.array([row.seconds for row in engine.rows])
    errors = np.abs(engine.left_out / measured - 1)
    assert np.median(errors) == engine.quality.median < 0.2
    assert engine.quality.rank_correlation > 0.95
    assert engine.by_publication.median < 0.15
    assert engine.interval is not None
    low, high = engine.interval
    for predicted in (engine.left_out, engine.without_publication):
        assert ((measured >= low * predicted) & (measured <= high * predicted)).mean() >= 0.8
    for name, value in engine.values.items():
        assert value < 1 or not name.startswith("efficiency")


def test_the_gpu_has_no_interval_for_its_rows_are_of_one_publication() -> None:
    assert fitted("gpu").interval is None
    for name in ("iphone-14-pro-max", "iphone-15-pro"):
        latency = load_profile(name).latency
        assert latency["gpu"].low is latency["gpu-metal"].low is None
        assert latency["neural-engine"].low is not None


def test_a_row_left_out_is_not_seen(engine: PhoneFit) -> None:
    assert not np.allclose(engine.left_out, engine.predicted, rtol=1e-3)


def test_twice_the_peaks_take_half_of_the_time_but_for_the_fixed_costs(engine: PhoneFit) -> None:
    row = next(row for row in engine.rows if row.graph == "sd15_512_vae_decoder")
    seconds = predict_row(row, engine.values)
    count = len(kernels(row))
    overhead = engine.values["fixed"] + count * engine.values["dispatch"]
    overhead *= engine.values[f"chip.{row.chip}"] * engine.values[f"publication.{row.publication}"]
    chip = CHIPS[row.chip]
    with pytest.MonkeyPatch.context() as patch:
        double = replace(chip, neural_macs=2 * chip.neural_macs, dram=2 * chip.dram)
        patch.setitem(CHIPS, row.chip, double)  # pyright: ignore[reportArgumentType]
        faster = predict_row(row, engine.values)
    assert faster - overhead == pytest.approx((seconds - overhead) / 2, rel=1e-6)


@pytest.mark.parametrize(("name", "chip"), [("iphone-14-pro-max", "A16"), ("iphone-15-pro", "A17 Pro")])
def test_the_profiles_hold_what_the_fit_gives(name: str, chip: str, engine: PhoneFit) -> None:
    profile = load_profile(name)
    own = parameters(chip, engine.values)
    model = unit_model("neural-engine", profile.units["neural-engine"], profile.latency["neural-engine"])
    assert model.parameters.bandwidth == pytest.approx(own.bandwidth, rel=0.02)
    assert model.parameters.dispatch == pytest.approx(own.dispatch, rel=0.05)
    for category, value in own.efficiency.items():
        assert model.parameters.efficiency[category] == pytest.approx(value, rel=0.02), category
    found = predict(kernels_of(phone_graph("sd15_512_unet"), profile.units["neural-engine"]), model)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.seconds < found.high
    assert found.seconds == pytest.approx(0.37, rel=0.15)  # Apple's own figure for the A16, of SD 2.1


def test_google_s_engine_on_apple_gpus() -> None:
    efficiency = iphone_metal.dense_efficiency()
    known = iphone_metal.TOTALS["M4 Pro"]
    assert iphone_metal.total(iphone_metal.metal_unit(known.chip, efficiency)) == pytest.approx(known.seconds, rel=1e-3)
    rows = iphone_metal.phone_ablation("A16", efficiency)
    assert [row.seconds for row in rows] == sorted((row.seconds for row in rows), reverse=True)
    assert rows[-1].reduction == pytest.approx(0.329, abs=0.06)  # published; nothing was fitted to it
    unit = load_profile("iphone-14-pro-max").latency["gpu-metal"]
    assert unit.efficiency["conv"].value == pytest.approx(efficiency, rel=0.02)
