"""The Adreno 740's fit: its aims, its bounds, and that page and profile say what the code computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.calibration import adreno, stable_diffusion
from benchmarks.calibration.__main__ import main
from benchmarks.calibration.ablation import PUBLISHED_REDUCTION
from benchmarks.calibration.adreno_fit import AdrenoFit, adreno_fit
from benchmarks.calibration.delegate_2024 import cpu_macs, on_gpu
from benchmarks.calibration.macs import graph_macs
from benchmarks.calibration.profile_values import PROFILE, replace_between, write_page, write_profile
from benchmarks.calibration.stored import stored_graph
from benchmarks.calibration.tables import sections
from sdmobile.device_profiles import load_profile
from sdmobile.errors import UnsupportedError
from sdmobile.formats.graph import FileGraph, Operation, Tensor
from sdmobile.prediction.kernels import kernels_of
from sdmobile.prediction.latency import predict, unit_model
from sdmobile.prediction.pipeline_time import end_to_end

PAGE = Path(__file__).resolve().parents[3] / "docs/latency-model.md"


@pytest.fixture(scope="module")
def result() -> AdrenoFit:
    return adreno_fit()


def test_the_aims_are_met_on_rows_that_the_fit_has_not_seen(result: AdrenoFit) -> None:
    assert result.left_out.median <= 0.15
    assert result.left_out.rank_correlation >= 0.95
    assert result.by_family.median <= 0.15
    assert result.by_family.rank_correlation >= 0.95


def test_values_are_within_physical_bounds_and_not_at_them(result: AdrenoFit) -> None:
    for parameter in adreno.PARAMETERS:
        assert 1.01 * parameter.low < result.values[parameter.name] < 0.99 * parameter.high, parameter.name


def test_the_left_out_statistics_are_those_of_the_rows(result: AdrenoFit) -> None:
    errors = [abs(each.error) for each in result.fitted]

    assert np.median(errors) == pytest.approx(result.left_out.median)
    assert max(errors) == pytest.approx(result.left_out.worst)
    assert all(each.left_out != each.predicted for each in result.fitted)


def test_published_reductions_are_within_five_points() -> None:
    for phone, rows in stable_diffusion.published_ablation().items():
        assert rows[-1].reduction == pytest.approx(PUBLISHED_REDUCTION[phone], abs=0.05), phone


def test_every_optimisation_saves_time_and_winograd_arithmetic() -> None:
    for rows in stable_diffusion.published_ablation().values():
        times = [row.seconds for row in rows]
        assert times == sorted(times, reverse=True)
        # 2 x 132.12 GMAC go through F(4x4, 3x3), which needs a quarter of them
        assert rows[0].macs - rows[-1].macs == pytest.approx(2 * 132.12e9 * 0.75, rel=0.001)
        assert rows[3].bytes < 0.6 * rows[2].bytes


def test_the_profile_gives_the_published_total() -> None:
    profile = load_profile("galaxy-s23-ultra")
    unit = unit_model("gpu", profile.units["gpu"], profile.latency["gpu"])
    text, unet, decoder = (
        predict(kernels_of(stored_graph(f"sd15_512_{name}"), profile.units["gpu"]), unit)
        for name in ("text_encoder", "unet", "vae_decoder")
    )

    assert end_to_end(text, unet, decoder, 20, "batch2").seconds == pytest.approx(11.5, rel=0.01)


def test_the_ablation_by_the_profile_is_that_by_the_fit(result: AdrenoFit) -> None:
    fitted = stable_diffusion.published_ablation(stable_diffusion.phones(result.values))

    for phone, rows in stable_diffusion.published_ablation().items():
        for row, other in zip(rows, fitted[phone], strict=True):
            assert row.seconds == pytest.approx(other.seconds, rel=1e-3)


def test_the_page_says_what_the_code_computes(result: AdrenoFit, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text())

    write_page(sections(result), page)

    assert page.read_text() == PAGE.read_text(), "run python -m benchmarks.calibration --page"


def test_the_profile_says_what_the_code_computes(result: AdrenoFit, tmp_path: Path) -> None:
    profile = tmp_path / PROFILE.name
    profile.write_text(PROFILE.read_text())

    write_profile(result, profile)

    assert profile.read_text() == PROFILE.read_text(), "run python -m benchmarks.calibration --write"


def test_peaks_are_those_of_the_profile() -> None:
    hardware = load_profile("galaxy-s23-ultra").hardware

    assert pytest.approx(float(hardware["gpu_fp16_peak"].value or 0) * 1e12 / 2) == adreno.PEAK_MACS
    assert pytest.approx(float(hardware["dram_bandwidth"].value or 0) * 1e9) == adreno.PEAK_BANDWIDTH


def chain(*kinds: str) -> FileGraph:
    """Returns a chain of 1x1 convolutions (4 to 4 channels, 8x8 pixels) and elementwise operations."""
    size = (1, 8, 8, 4)
    tensors = {f"t{i}": Tensor(f"t{i}", size, "float32", False) for i in range(len(kinds) + 1)}
    tensors["w"] = Tensor("w", (4, 1, 1, 4), "float16", True, 32)
    operations = tuple(
        Operation(kind, "", (f"t{i}", "w") if kind == "conv_2d" else (f"t{i}",), (f"t{i + 1}",))
        for i, kind in enumerate(kinds)
    )
    return FileGraph("tflite", tensors, operations, ("t0",), (f"t{len(kinds)}",), 0)


def test_the_longest_stretch_between_gelus_is_on_the_gpu() -> None:
    graph = chain("conv_2d", "gelu", "conv_2d", "relu", "conv_2d", "gelu", "conv_2d")
    taken = on_gpu(graph)

    assert [operation.kind for operation in taken.operations] == ["conv_2d", "relu", "conv_2d"]
    assert taken.inputs == ("t2",)
    assert taken.outputs == ("t5",)
    assert cpu_macs(graph) == 2 * 8 * 8 * 4 * 4


def test_a_model_without_gelu_is_on_the_gpu_as_a_whole() -> None:
    graph = chain("conv_2d", "relu", "conv_2d")

    assert on_gpu(graph) is graph
    assert cpu_macs(graph) == 0


def test_fastvit_is_on_the_cpu_in_the_table_and_on_the_gpu_today() -> None:
    row = next(row for row in adreno.fit_rows() if row.graph == "fastvit_t8")
    today = adreno.work_of(replace(row, runtime="tflite-gpu"))

    assert adreno.work_of(row).cpu_macs > 0.9 * graph_macs(stored_graph("fastvit_t8"))
    assert today.cpu_macs == 0.0
    assert today.gpu.macs.sum() >= graph_macs(stored_graph("fastvit_t8"))


def test_a_single_graph_is_predicted_as_its_row_is(result: AdrenoFit) -> None:
    for each in result.fitted:
        found = adreno.seconds(stored_graph(each.row.graph), result.values, each.row.runtime)
        assert found == pytest.approx(each.predicted, rel=1e-9)


def test_text_without_marks_is_refused() -> None:
    assert replace_between("a [ b ] c", "[", "]", "x") == "a [\nx\n] c"
    with pytest.raises(UnsupportedError, match="marks"):
        replace_between("a b c", "[", "]", "x")


def test_the_command_prints_every_table(
    result: AdrenoFit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["calibration"])

    main()

    printed = capsys.readouterr().out
    assert all(content in printed for content in sections(result).values())
