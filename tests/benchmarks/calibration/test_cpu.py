"""The CPU's calibration: written files are the graphs, the fit finds known parameters, stored times keep the claims."""

from __future__ import annotations

import itertools
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.calibration import cpu, cpu_measure, cpu_models
from benchmarks.calibration.cpu_file import tflite_file
from benchmarks.calibration.cpu_fit import EFFICIENCIES, cpu_fit
from benchmarks.calibration.cpu_graphs import benchmarks
from benchmarks.calibration.cpu_measure import Plan, Runnable, this_caches, thread_counts
from benchmarks.calibration.cpu_models import bundle_models, model_graph, rebuilt_models
from benchmarks.calibration.cpu_profile import (
    PROFILE,
    FittedUnit,
    fitted_units,
    profile_text,
    sections,
    write_cpu_profile,
)
from benchmarks.calibration.cpu_results import Caches, CpuResults, Machine, read_results, write_results
from benchmarks.calibration.profile_values import replace_between
from benchmarks.calibration.stored import stored_graph
from sdmobile.device_profiles import load_profile
from sdmobile.device_profiles.fact import Fact
from sdmobile.errors import UnsupportedError
from sdmobile.formats.graph import FileGraph, read_graph
from sdmobile.prediction.kernels import Kernel, kernels_of
from sdmobile.prediction.kernels.xnnpack import xnnpack_kernels
from sdmobile.prediction.latency import Parameters, UnitModel, predict, unit_model

PAGE = Path(__file__).resolve().parents[3] / "docs/latency-model.md"
CACHES = Caches(2**20, 32 * 2**20)
MACHINE = Machine("test processor", CACHES, "test runtime", "2026-01-01", "")
TRUE = Parameters(
    dict(zip(EFFICIENCIES, (0.8, 0.95, 0.35, 0.05, 0.4, 0.38, 0.3, 0.15, 0.3), strict=True)), 2.5e10, 2e-7, 1e-6
)


@pytest.fixture(scope="module")
def units() -> tuple[FittedUnit, ...]:
    return fitted_units(read_results())


def test_models_that_were_not_fitted_are_predicted_within_the_aim(units: tuple[FittedUnit, ...]) -> None:
    assert units[0].threads == 1
    for unit in units:
        assert len(unit.models) >= 20
        assert unit.quality.median <= (0.15 if unit.threads == 1 else 0.2), unit.name
        assert unit.quality.rank_correlation >= 0.98, unit.name


def test_no_model_is_among_the_microbenchmarks(units: tuple[FittedUnit, ...]) -> None:
    assert set(units[0].fit.names) == set(benchmarks())
    assert not {model.name for model in units[0].models} & set(benchmarks())


def test_profile_and_page_say_what_the_code_computes(units: tuple[FittedUnit, ...]) -> None:
    results = read_results()
    assert PROFILE.read_text() == profile_text(results, units)
    page = PAGE.read_text()
    for name, content in sections(results, units).items():
        assert replace_between(page, f"<!-- {name} -->", f"<!-- end {name} -->", "\n" + content + "\n") == page, name


def test_the_profile_predicts_what_the_fit_predicts(units: tuple[FittedUnit, ...]) -> None:
    profile = load_profile("cpu")
    for unit in units:
        model = unit_model(unit.name, profile.units[unit.name], profile.latency[unit.name])
        for found in unit.models[:3]:
            kernels = kernels_of(model_graph(found.name), profile.units[unit.name])
            assert predict(kernels, model).seconds == pytest.approx(found.predicted, rel=1e-9)


@pytest.fixture(scope="module")
def synthetic() -> dict[str, float]:
    model = UnitModel("true", 6e10, TRUE, 4)
    return {name: predict(xnnpack_kernels(graph), model).seconds for name, graph in benchmarks().items()}


def test_the_fit_finds_the_parameters_that_made_the_times(synthetic: dict[str, float]) -> None:
    found = cpu_fit("cpu-1", synthetic, CACHES)
    rate = found.model.peak_macs / 6e10  # the peak is the fastest product's rate; only peak x efficiency matters

    for category, efficiency in TRUE.efficiency.items():
        assert found.model.parameters.efficiency[category] * rate == pytest.approx(efficiency, rel=0.03), category
    assert found.model.parameters.bandwidth == pytest.approx(TRUE.bandwidth, rel=0.03)
    assert found.model.parameters.dispatch == pytest.approx(TRUE.dispatch, rel=0.1)
    assert found.model.parameters.fixed == pytest.approx(TRUE.fixed, rel=0.2)
    assert found.quality.worst < 0.05


def test_one_odd_time_bends_nothing_else(synthetic: dict[str, float]) -> None:
    odd = {**synthetic, "fully connected 2048x256x256": 3.0 * synthetic["fully connected 2048x256x256"]}
    found = cpu_fit("cpu-1", odd, CACHES)
    errors = dict(zip(found.names, found.predicted / found.measured - 1.0, strict=True))

    assert errors.pop("fully connected 2048x256x256") < -0.5
    assert max(map(abs, errors.values())) < 0.1


def _small() -> dict[str, FileGraph]:
    chosen = {}
    for name, graph in benchmarks().items():
        kind = graph.operations[0].kind
        size = sum(tensor.elements for tensor in graph.tensors.values())
        if kind not in chosen or size < chosen[kind][0]:
            chosen[kind] = (size, name, graph)
    return {name: graph for _, name, graph in chosen.values()}


def _unnamed(graph: FileGraph) -> list[Kernel]:
    return [replace(kernel, name="") for kernel in xnnpack_kernels(graph)]


@pytest.mark.parametrize("name", [*_small()])
def test_a_written_file_runs_and_reads_back_as_its_graph(name: str, tmp_path: Path) -> None:
    graph = _small()[name]
    path = tmp_path / "written.tflite"
    path.write_bytes(tflite_file(graph))
    again = read_graph(path)

    assert [o.kind for o in again.operations] == [o.kind for o in graph.operations]
    assert _unnamed(again) == _unnamed(graph)
    assert Runnable(path, 1).seconds(time.perf_counter) > 0.0


def test_a_written_convolution_computes_a_convolution(tmp_path: Path) -> None:
    import torch
    from ai_edge_litert.interpreter import Interpreter

    content = tflite_file(benchmarks()["conv 3x3/1 15x15 200-200"])
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    image = np.random.default_rng(1).standard_normal((1, 15, 15, 200)).astype(np.float32)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    weights, bias = (interpreter.get_tensor(i) for i in (1, 2))
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(image).permute(0, 3, 1, 2),
        torch.from_numpy(weights).permute(0, 3, 1, 2),
        torch.from_numpy(bias),
        padding=1,
    ).permute(0, 2, 3, 1)

    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    # Product and bias have a deviation of 1 each but at the borders: nothing shrinks to denormals, which would be slow.
    assert float(np.std(found)) == pytest.approx(2.0**0.5, rel=0.05)


def test_a_public_model_reads_back_as_its_stored_graph(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(tflite_file(stored_graph("mobilenet_v2_050")))

    assert _unnamed(read_graph(path)) == _unnamed(stored_graph("mobilenet_v2_050"))


def test_a_graph_is_kept_only_where_the_package_has_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_models, "GRAPHS", tmp_path / "graphs")
    cpu_models.keep_graph("mobilenet_v2_050", stored_graph("mobilenet_v2_050"))
    assert not (tmp_path / "graphs").exists()

    cpu_models.keep_graph("mobilenet_v2_050", stored_graph("mobilenet_v2_100"))
    assert xnnpack_kernels(cpu_models.model_graph("mobilenet_v2_050")) == xnnpack_kernels(
        stored_graph("mobilenet_v2_100")
    )


def test_composites_cannot_be_written() -> None:
    with pytest.raises(UnsupportedError, match=r"odml\.group_norm, odml\.scaled_dot_product_attention"):
        tflite_file(stored_graph("sd15_512_unet"))
    assert "mobilenet_v2_100" in rebuilt_models()
    assert not any(name.startswith("sd15") for name in rebuilt_models())


class Clock:
    """A clock that advances by given steps."""

    def __init__(self, *steps: float) -> None:
        self._steps, self._now = itertools.cycle(steps), 0.0

    def __call__(self) -> float:
        self._now += next(self._steps)
        return self._now


def test_the_quietest_run_counts_and_the_first_is_a_warm_up() -> None:
    file = Runnable(tflite_file(benchmarks()["chain of 64 small operators"]), 1)

    # Steps alternate between what passes before a run and during it.
    assert file.quietest(Clock(0.0, 0.1, 0.0, 0.5, 0.0, 0.3, 0.0, 0.4), 0.0) == pytest.approx(0.3)
    assert file.quietest(Clock(0.0, 9.0, 0.0, 8.0), 0.0) == pytest.approx(8.0)
    assert file.quietest(Clock(0.0, 7.0, 0.0, 8.0), 0.0) == pytest.approx(7.0)


def test_caches_as_linux_gives_them(tmp_path: Path) -> None:
    for index, (level, kind, size) in enumerate([(1, "Data", "32K"), (2, "Unified", "512K"), (3, "Unified", "8M")]):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(f"{value}\n")

    assert this_caches(tmp_path) == Caches(512 * 2**10, 8 * 2**20)
    assert this_caches(tmp_path / "none") == CACHES
    assert thread_counts((3, 1, 3)) == (3, 1)


def test_results_come_back_as_written(tmp_path: Path, synthetic: dict[str, float]) -> None:
    results = CpuResults(MACHINE, {1: {"a": 1.0}, 2: {"a": 0.5}}, {1: {"m": 2.0}, 2: {}})
    write_results(results, tmp_path / "folder/results.json")

    assert read_results(tmp_path / "folder/results.json") == results


def test_a_user_s_profile_is_a_valid_device(tmp_path: Path, synthetic: dict[str, float]) -> None:
    results = CpuResults(MACHINE, {1: synthetic, 2: {k: v / 2 for k, v in synthetic.items()}}, {})
    write_cpu_profile(results, fitted_units(results), tmp_path / "my-cpu.toml")
    profile = load_profile(str(tmp_path / "my-cpu.toml"))

    assert (profile.name, list(profile.units)) == ("my-cpu", ["cpu-1", "cpu-2"])
    one, two = (unit_model(name, profile.units[name], profile.latency[name]) for name in profile.units)
    kernels = xnnpack_kernels(stored_graph("mobilenet_v2_100"))
    assert predict(kernels, one).seconds == pytest.approx(2 * predict(kernels, two).seconds, rel=0.1)
    peak = profile.units["cpu-1"].peak_macs
    assert isinstance(peak, Fact)
    assert "test processor" in peak.source


def test_the_page_has_a_column_per_number_of_threads(synthetic: dict[str, float]) -> None:
    models = {"mobilenet_v2_050": 2e-3, "sd15_512_vae_decoder": 27.0}
    half = {name: value / 2 for name, value in models.items()}
    results = CpuResults(MACHINE, {1: synthetic, 2: {k: v / 2 for k, v in synthetic.items()}}, {1: models, 2: half})
    found = fitted_units(results)
    rows = sections(results, found)["cpu models"].splitlines()

    assert rows[0].count("cpu-1") == rows[0].count("cpu-2") == 3
    small, large = ([cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:])
    assert (small[0], small[1], small[4]) == ("mobilenet_v2_050", "2", "1")
    assert (large[1], large[4]) == ("27000", "13500")
    assert float(large[2]) == pytest.approx(1e3 * found[0].models[1].predicted, abs=1.0)
    assert small[3] == f"{found[0].models[0].predicted / 2e-3 - 1.0:+.0%}"


def test_a_bundle_is_named_in_the_command(tmp_path: Path) -> None:
    (tmp_path / "unet.tflite").write_bytes(b"")

    assert bundle_models(f"mine={tmp_path}") == {"mine_unet": tmp_path / "unet.tflite"}
    for wrong in (str(tmp_path), f"mine={tmp_path / 'none'}"):
        with pytest.raises(UnsupportedError, match="NAME=FOLDER"):
            bundle_models(wrong)


def test_the_command_calibrates_this_computer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {name: graph for name, graph in _small().items() if graph.operations[0].kind not in ("batch_matmul", "pad")}
    monkeypatch.setattr(cpu, "benchmarks", lambda: few)
    monkeypatch.setattr(cpu_measure, "_SMALL_BUDGET", 0.0)
    output = tmp_path / "mine.toml"
    monkeypatch.setattr(sys, "argv", ["cpu", "--output", str(output), "--threads", "1", "--rounds", "1"])
    cpu.main()

    assert f"| cpu-1: microbenchmarks, fitted | {len(few)} |" in capsys.readouterr().out
    assert 'name = "mine"' in output.read_text()


def test_a_profile_that_cannot_be_written_is_refused_before_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wrong in (tmp_path / "none/mine.toml", tmp_path / "mine.json"):
        monkeypatch.setattr(sys, "argv", ["cpu", "--output", str(wrong)])
        with pytest.raises(SystemExit, match=r"must be a \.toml file"):
            cpu.main()


def test_the_plan_measures_every_file_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_measure, "_SMALL_BUDGET", 0.0)
    graphs = {name: benchmarks()[name] for name in ("gather", "chain of 64 small operators")}
    found = cpu_measure.measure_benchmarks(graphs, Plan((1, 2), rounds=2))

    assert set(found) == {1, 2}
    assert all(set(seconds) == set(graphs) and min(seconds.values()) > 0.0 for seconds in found.values())
