"""Rules that hold for some builds of LiteRT, or on some makers' GPUs: objections there, warnings elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sdmobile.cli import app as cli
from sdmobile.cli.app import app
from sdmobile.device_profiles.runtime_rules.winograd import Gpu
from sdmobile.lint import Limits, lint_file, parse_engine
from sdmobile.lint.engine import Engine, EngineError, Where
from sdmobile.lint.tflite import engine_rules
from tests.lint.corpus.graph import Graph, options


@pytest.mark.parametrize(
    ("where", "engine", "holds"),
    [
        (Where(), Engine(), True),
        (Where(), Engine((2, 1, 2)), False),
        (Where(before=(2, 1, 6)), Engine(), None),
        (Where(before=(2, 1, 6)), Engine((2, 1, 5)), True),
        (Where(before=(2, 1, 6)), Engine((2, 1, 6)), False),
        (Where((2, 1, 5), (2, 2)), Engine((2, 1, 3)), False),
        (Where(makers=("arm",)), Engine(), None),
        (Where(makers=("arm",)), Engine(maker="arm"), True),
        (Where(makers=("arm",)), Engine(maker="qualcomm"), False),
        (Where(before=(2, 2), makers=("arm",)), Engine(maker="arm"), None),
        (Where(before=(2, 2), makers=("arm",)), Engine((2, 1, 6)), None),
        (Where(before=(2, 2), makers=("arm",)), Engine((2, 1, 6), "arm"), True),
        (Where(before=(2, 2), makers=("arm",)), Engine((2, 3), "arm"), False),
    ],
)
def test_a_reach_holds_does_not_or_nobody_knows(where: Where, engine: Engine, holds: bool | None) -> None:
    assert where.holds(engine) is holds


@pytest.mark.parametrize("words", [("2", None), ("two", None), ("2.1.5-rc1", None), (None, "mali"), ("2.1.5.6", None)])
def test_other_words_are_refused(words: tuple[str | None, str | None]) -> None:
    with pytest.raises(EngineError):
        parse_engine(*words)
    assert parse_engine("2.1.5", "arm") == Engine((2, 1, 5), "arm")


def _masked(graph: Graph, heads: int) -> list[int]:
    left, right = graph.input((1, 4, 8, 16)), graph.input((1, 4, 16, 8))
    scores = graph.op("BATCH_MATMUL", [left, right], (1, 4, 8, 8), options=options("BatchMatMul"))[0]
    return graph.op("ADD", [scores, graph.input((1, heads, 8, 8))], (1, 4, 8, 8), options=options("Add"))


def _reduced(graph: Graph, size: int) -> list[int]:
    made = options("Reducer", keepDims=True)
    return graph.op("MEAN", [graph.input((1, size, size, 8)), graph.const([1, 2])], (1, 1, 1, 8), options=made)


def _enlarged(graph: Graph, size: int) -> list[int]:
    made = options("ResizeNearestNeighbor", halfPixelCenters=True)
    inputs = [graph.input((1, 8, 8, 8)), graph.const([size, size])]
    return graph.op("RESIZE_NEAREST_NEIGHBOR", inputs, (1, size, size, 8), options=made)


def _rank_3(graph: Graph, heads: int) -> list[int]:
    shape = (heads, 8, 8) if heads > 1 else (1, 4, 8, 8)
    left, right = graph.input(shape), graph.input(shape)
    return graph.op("BATCH_MATMUL", [left, right], shape, options=options("BatchMatMul"))


def _read_output(graph: Graph, rank: int) -> list[int]:
    shape = (1, 8, 8) if rank == 3 else (1, 8, 8, 8)
    made = graph.op("EXP", [graph.input(shape)], shape)
    return [*made, *graph.op("ABS", made, shape)]


_Build = Callable[[Graph, int], list[int]]


@pytest.mark.parametrize(
    ("rule", "build", "bad", "good", "there", "elsewhere"),
    [
        ("shared-mask", _masked, 1, 4, ("2.1.5", None), ("2.1.6", None)),
        ("large-reduction", _reduced, 512, 256, (None, "arm"), (None, "qualcomm")),
        ("uneven-upsampling", _enlarged, 12, 16, (None, "arm"), (None, "qualcomm")),
        ("rank-3-attention", _rank_3, 4, 1, (None, "arm"), (None, "qualcomm")),
        ("rank-3-output", _read_output, 3, 4, (None, "arm"), (None, "qualcomm")),
    ],
)
def test_a_rule_objects_where_it_holds_and_warns_where_nobody_knows(
    tmp_path: Path, rule: str, build: _Build, bad: int, good: int, there: tuple[str | None, str | None],
    elsewhere: tuple[str | None, str | None],
) -> None:  # fmt: skip
    for size, breaks in ((bad, True), (good, False)):
        graph = Graph()
        path = tmp_path / f"{size}.tflite"
        path.write_bytes(graph.bytes(*build(graph, size)))
        said = {f.rule: f.severity for f in lint_file(path, "ml-drift", engine=parse_engine(*there)).findings}
        assert (said.get(rule) == "miscomputed") == breaks
        unknown = lint_file(path, "ml-drift")
        assert ({f.rule: f.severity for f in unknown.findings}.get(rule) == "warning") == breaks
        assert unknown.accepted
        assert rule not in lint_file(path, "ml-drift", engine=parse_engine(*elsewhere)).rules()


def test_the_phone_of_a_profile_says_whose_gpu_it_is(tmp_path: Path) -> None:
    graph = Graph()
    path = tmp_path / "model.tflite"
    path.write_bytes(graph.bytes(*_rank_3(graph, 4)))
    assert "rank-3-attention" in lint_file(path, "ml-drift", Limits()).rules()
    assert "rank-3-attention" not in lint_file(path, "ml-drift", Limits(gpu=Gpu.ADRENO_7XX)).rules()
    assert "rank-3-attention" not in lint_file(path, "ml-drift", Limits(gpu=Gpu.ADRENO_7XX), Engine((2, 1, 5))).rules()


@pytest.mark.parametrize(("version", "verdict"), [("2.1.6", "refused"), ("2.2", "accepted"), ("2.3.0", "accepted")])
def test_operators_of_older_builds(tmp_path: Path, version: str, verdict: str) -> None:
    graph = Graph()
    shape = (1, 4, 4, 8)
    x, y = graph.input(shape), graph.input(shape)
    chosen = graph.op("GREATER", [x, y], shape, dtype="bool")[0]
    made = graph.op("SELECT_V2", [chosen, x, y], shape)
    path = tmp_path / "model.tflite"
    path.write_bytes(graph.bytes(*made))
    assert lint_file(path, "ml-drift", engine=parse_engine(version, None)).verdict == verdict
    result = CliRunner().invoke(app, ["lint", str(path), "--litert", version, "--json"])
    assert json.loads(result.stdout)["verdict"] == verdict


def test_a_size_that_takes_long_to_compile_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph()
    path = tmp_path / "model.tflite"
    path.write_bytes(graph.bytes(*_rank_3(graph, 1)))
    monkeypatch.setattr(engine_rules, "_LARGE_GRAPH", path.stat().st_size)
    assert "large-graph" not in lint_file(path, "ml-drift").rules()
    monkeypatch.setattr(engine_rules, "_LARGE_GRAPH", path.stat().st_size - 1)
    assert [f.severity for f in lint_file(path, "ml-drift").findings if f.rule == "large-graph"] == ["warning"]


def test_a_wrong_version_is_a_usage_error(tmp_path: Path) -> None:
    assert cli.run(["lint", str(tmp_path / "m.tflite"), "--litert", "newest"]) == 2
    assert cli.run(["lint", str(tmp_path / "m.tflite"), "--gpu", "mali"]) == 2
