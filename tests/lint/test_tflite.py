"""The lint of `.tflite` files: what it reads, what it says, and what it does with broken files."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

from sdmobile.device_profiles import profile_path
from sdmobile.device_profiles.runtime_rules.winograd import Gpu
from sdmobile.errors import UnsupportedError
from sdmobile.formats.tflite.model import Tensor
from sdmobile.formats.tflite.reader import read_graph
from sdmobile.lint import FormatError, Limits, LintReport, lint_bundle, lint_file, worst
from sdmobile.lint.dispatch import RuntimeNameError
from sdmobile.lint.tflite.memory import tensor_bytes
from sdmobile.validate.gpu.model_facts import read_model
from tests.lint.corpus.graph import Graph, Shape, options

_SHAPE = (1, 4, 4, 8)


def _saved(folder: Path, graph: Graph, *outputs: int) -> Path:
    path = folder / "model.tflite"
    path.write_bytes(graph.bytes(*outputs))
    return path


def _broadcast(folder: Path, name: str = "t.Net/t.Block_blocks/torch.nn.GroupNorm_norm;3") -> Path:
    graph = Graph()
    x = graph.input((1, 1, 1, 8))
    result = graph.tensor(_SHAPE, name=name)
    graph.op("BROADCAST_TO", [x, graph.const(list(_SHAPE))], result, version=2)
    return _saved(folder, graph, result)


def test_broadcast_to_is_named_with_its_module_shapes_and_issue(tmp_path: Path) -> None:
    report = lint_file(_broadcast(tmp_path), "ml-drift")
    (finding,) = report.findings
    assert report.verdict == "refused"
    assert (finding.op, finding.version, finding.node) == ("BROADCAST_TO", 2, "0")
    assert finding.module == "blocks (Block)/norm (GroupNorm)"
    assert finding.shapes == {
        "inputs": ["float32[1, 1, 1, 8]", "int32[4] constant"],
        "outputs": ["float32[1, 4, 4, 8]"],
    }
    assert "#9191" in finding.fix


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("serving_default_output_0_output", None),
        ("package.lower._Named;266", None),
        ("p.Net/torch.nn.modules.conv.Conv2d_last;2", "last (Conv2d)"),
        (";;p.Net/p.Block_0/p.A_a;1;p.Net/p.Block_0;4", "0 (Block)/a (A)"),
        ("down_blocks.0.norm1;11", "down_blocks.0.norm1"),
        ("conv_in;", "conv_in"),
        ("mid_block.norm;;down_blocks.0.resnets.0.norm1;2", "mid_block.norm"),
    ],
)
def test_modules_are_read_from_tensor_names(tmp_path: Path, name: str, module: str | None) -> None:
    assert lint_file(_broadcast(tmp_path, name)).findings[0].module == module


def test_json_holds_everything(tmp_path: Path) -> None:
    document = json.loads(json.dumps(lint_file(_broadcast(tmp_path)).to_json()))
    assert document["verdict"] == "refused"
    assert document["prediction"] is True
    assert document["rules"] == {"no-such-operator": 1}
    assert document["findings"][0]["source"].startswith("LiteRT ")


def _version(folder: Path, op: str, version: int, runtime: str) -> LintReport:
    graph = Graph()
    x = graph.input(_SHAPE)
    made = graph.op(op, [x, x], _SHAPE, version=version, options=options(op.capitalize()))
    return lint_file(_saved(folder, graph, *made), runtime)


@pytest.mark.parametrize(
    ("op", "highest"), [("ADD", {"ml-drift": 6, "tflite-gpu": 2}), ("MUL", {"ml-drift": 8, "tflite-gpu": 3})]
)
def test_the_highest_version_is_that_of_the_runtime(tmp_path: Path, op: str, highest: dict[str, int]) -> None:
    for runtime, version in highest.items():
        assert _version(tmp_path, op, version, runtime).verdict == "accepted"
        assert _version(tmp_path, op, version + 1, runtime).rules() == {"version": 1}


def test_float16_weights_are_read_through_their_dequantize(tmp_path: Path) -> None:
    graph = Graph()
    x = graph.input((2, 8))
    weights = graph.op("DEQUANTIZE", [graph.weights(6, 8, dtype="float16")], (6, 8), version=3)[0]
    made = graph.op("FULLY_CONNECTED", [x, weights, -1], (2, 6), options=options("FullyConnected"), version=6)
    for runtime in ("ml-drift", "tflite-gpu"):
        assert lint_file(_saved(tmp_path, graph, *made), runtime).verdict == "accepted"


def _composite(folder: Path, name: str, attributes: dict, runtime: str = "ml-drift") -> LintReport:
    graph = Graph(decompositions=1)
    x, scale, shift = graph.input(_SHAPE), graph.weights(8), graph.weights(8)
    made = schema.StableHLOCompositeOptionsT()
    made.name, made.decompositionSubgraphIndex = name, 1
    made.compositeAttributes = list(flexbuffers.Dumps(attributes))
    return lint_file(
        _saved(folder, graph, *graph.op("STABLEHLO_COMPOSITE", [x, scale, shift], _SHAPE, options2=made)), runtime
    )


_GROUP_NORM = {"num_groups": 4, "epsilon": 1e-5, "channel_axis": 3, "_TENSOR_V1_reduction_axes": [3]}


def test_group_norm_composite_is_for_ml_drift_only(tmp_path: Path) -> None:
    assert _composite(tmp_path, "odml.group_norm", _GROUP_NORM).verdict == "accepted"
    refused = _composite(tmp_path, "odml.group_norm", _GROUP_NORM, "tflite-gpu")
    assert refused.rules() == {"no-such-operator": 1}
    assert refused.findings[0].op == "STABLEHLO_COMPOSITE odml.group_norm"


@pytest.mark.parametrize(
    "changed",
    [
        {"channel_axis": 1},
        {"epsilon": None},
        {"num_groups": None},
        {"_TENSOR_V1_reduction_axes": [1, 2]},
        {"sub_type": 0},
    ],
)
def test_group_norm_composite_needs_its_attributes(tmp_path: Path, changed: dict) -> None:
    attributes = {k: v for k, v in {**_GROUP_NORM, **changed}.items() if v is not None}
    assert _composite(tmp_path, "odml.group_norm", attributes).rules() == {"composite-attribute": 1}


def test_unknown_composites_are_refused(tmp_path: Path) -> None:
    assert _composite(tmp_path, "odml.softmax", {}).rules() == {"unknown-composite": 1}


def test_the_classic_delegate_takes_no_constant_of_rank_3_in_a_matrix_product(tmp_path: Path) -> None:
    graph = Graph()
    x = graph.input((2, 4, 8))
    made = graph.op("BATCH_MATMUL", [x, graph.weights(2, 8, 6)], (2, 4, 6), options=options("BatchMatMul"))
    path = _saved(tmp_path, graph, *made)
    assert lint_file(path, "ml-drift").verdict == "accepted"
    assert lint_file(path, "tflite-gpu").rules() == {"batch-matmul-rank": 1}


def test_a_comparison_alone_is_nothing_for_the_classic_delegate(tmp_path: Path) -> None:
    graph = Graph()
    x, y = graph.input(_SHAPE), graph.input(_SHAPE)
    (less,) = graph.op("LESS", [x, y], _SHAPE, dtype="bool")
    (cast,) = graph.op("CAST", [less], _SHAPE, options=options("Cast"))
    (product,) = graph.op("MUL", [cast, x], _SHAPE, options=options("Mul"))
    assert lint_file(_saved(tmp_path, graph, product), "tflite-gpu").verdict == "accepted"
    graph.op("EXP", [cast], _SHAPE)
    assert lint_file(_saved(tmp_path, graph, product), "tflite-gpu").rules() == {"cast-use": 1}
    alone = Graph()
    made = alone.op("LESS", [alone.input(_SHAPE), alone.input(_SHAPE)], _SHAPE, dtype="bool")
    assert lint_file(_saved(tmp_path, alone, *made), "tflite-gpu").rules() == {"comparison-use": 1}


@pytest.mark.parametrize(
    ("shape", "expected"), [((1, 8, 8, 1), 1024), ((1, 8, 8, 5), 2048), ((3,), 48), ((2, 3, 4), 96)]
)
def test_gpu_tensors_hold_channels_in_fours(shape: Shape, expected: int) -> None:
    assert tensor_bytes(Tensor(0, "", shape, "FLOAT32", False), 4) == expected


def test_a_tensor_above_the_buffer_limit_is_named_at_the_device_precision(tmp_path: Path) -> None:
    graph = Graph()
    x = graph.input((1, 64, 64, 8))
    path = _saved(tmp_path, graph, *graph.op("EXP", [x], (1, 64, 64, 8)))
    half = 64 * 64 * 8 * 2
    assert lint_file(path, limits=Limits(buffer_bytes=half)).verdict == "accepted"
    report = lint_file(path, limits=Limits(buffer_bytes=half - 1))
    assert (report.verdict, report.rules()) == ("miscomputed", {"buffer-size": 2})
    assert lint_file(path, limits=Limits(buffer_bytes=half, float_bytes=4)).verdict == "miscomputed"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("size", "runtime", "gpu", "counted"),
    [
        (24, "ml-drift", Gpu.OTHER, True),
        (24, "tflite-gpu", Gpu.OTHER, True),
        (20, "ml-drift", Gpu.OTHER, False),  # 25 tiles of 32
        (24, "ml-drift", Gpu.ADRENO_7XX, False),  # 64 channels of 128
    ],
)
def test_weights_transformed_for_winograd_need_a_buffer(
    tmp_path: Path, dtype: str, size: int, runtime: str, gpu: Gpu, counted: bool
) -> None:
    """What the GPU check counts of a file, the lint counts of it, stored float16 included."""
    graph = Graph()
    weights = graph.weights(72, 3, 3, 64, dtype=dtype)
    if dtype == "float16":
        (weights,) = graph.op("DEQUANTIZE", [weights], (72, 3, 3, 64), version=2)
    stride = options("Conv2D", strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1)
    inputs = [graph.input((1, size, size, 64)), weights, graph.weights(72)]
    path = _saved(tmp_path, graph, *graph.op("CONV_2D", inputs, (1, size, size, 72), options=stride))
    transformed = 36 * 64 * 72 * 2
    copies = [copy.bytes_on_gpu("float16") for copy in read_model(path).copies]
    assert copies == ([transformed] if size == 24 else [])
    largest = max(tensor_bytes(tensor, 2) for tensor in read_graph(path).tensors)
    assert lint_file(path, runtime, Limits(buffer_bytes=transformed, gpu=gpu)).verdict == "accepted"
    report = lint_file(path, runtime, Limits(buffer_bytes=largest, gpu=gpu))
    assert report.rules() == ({"buffer-size": 1} if counted else {})
    assert all(f"takes {transformed} bytes" in finding.detail for finding in report.findings)


@pytest.mark.parametrize(("rows", "found"), [(36 * 16, {}), (36 * 16 - 1, {"texture-rows": 1}), (None, {})])
def test_weights_transformed_for_winograd_fit_a_browsers_textures(
    tmp_path: Path, rows: int | None, found: dict[str, int]
) -> None:
    graph = Graph()
    stride = options("Conv2D", strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1)
    inputs = [graph.input((1, 24, 24, 64)), graph.weights(72, 3, 3, 64), graph.weights(72)]
    path = _saved(tmp_path, graph, *graph.op("CONV_2D", inputs, (1, 24, 24, 72), options=stride))
    assert lint_file(path, limits=Limits(texture_rows=rows)).rules() == found


def test_computed_weights_are_not_transformed(tmp_path: Path) -> None:
    graph = Graph()
    stride = options("Conv2D", strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1)
    inputs = [graph.input((1, 24, 24, 64)), graph.input((72, 3, 3, 64)), graph.weights(72)]
    path = _saved(tmp_path, graph, *graph.op("CONV_2D", inputs, (1, 24, 24, 72), options=stride))
    assert "buffer-size" not in lint_file(path, limits=Limits(buffer_bytes=36 * 64 * 72 * 2 - 1)).rules()


@pytest.mark.parametrize(("dtype", "expected"), [("int8", 2 * 9 * 8), ("float32", 2 * 9 * 8), ("int32", 4 * 9 * 8)])
def test_a_table_to_gather_from_is_read_as_floats(tmp_path: Path, dtype: str, expected: int) -> None:
    graph = Graph()
    table, index = graph.weights(9, 8, dtype=dtype), graph.input((2,), "int32")
    (result,) = graph.op("GATHER", [table, index], (2, 8), dtype=dtype, options=options("Gather"))
    path = _saved(tmp_path, graph, result)
    assert "buffer-size" not in lint_file(path, limits=Limits(buffer_bytes=expected)).rules()
    assert lint_file(path, limits=Limits(buffer_bytes=expected - 1)).rules()["buffer-size"] == 1


def test_weights_behind_the_flatbuffer_are_found(tmp_path: Path) -> None:
    path = _external(tmp_path, b"\1" * 64)
    graph = read_graph(path)
    assert [tensor.constant for tensor in graph.tensors] == [True, False]
    assert graph.tensors[0].values() is not None
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FormatError, match="breaks off"):
        read_graph(path)


def _external(folder: Path, data: bytes) -> Path:
    """Writes a model whose only constant lies behind the flatbuffer, as converters do above 2 GB."""
    model = schema.ModelT()
    model.version, model.operatorCodes = 3, []
    constant, result, graph = schema.TensorT(), schema.TensorT(), schema.SubGraphT()
    constant.shape, constant.type, constant.buffer, constant.name = [16], schema.TensorType.FLOAT32, 1, "weights"
    result.shape, result.name = [16], "result"
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [constant, result], [], [], [1]
    model.subgraphs, model.buffers = [graph], [schema.BufferT(), schema.BufferT()]
    stored = model.buffers[1]
    stored.offset, stored.size = 2, len(data)
    size = len(_packed(model))
    stored.offset = size
    path = folder / "large.tflite"
    path.write_bytes(_packed(model) + data)
    return path


def _packed(model: schema.ModelT) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize("kept", [0, 5, 30, 200, 0.5, 0.9])
def test_truncated_files_are_said_to_be(tmp_path: Path, kept: float) -> None:
    graph = Graph()
    whole = _saved(
        tmp_path, graph, *graph.op("ADD", [graph.input(_SHAPE), graph.weights(*_SHAPE)], _SHAPE)
    ).read_bytes()
    path = tmp_path / "cut.tflite"
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(FormatError) as error:
        lint_file(path)
    assert error.value.exit_code == 4


def test_random_bytes_never_end_in_another_error(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    graph = Graph()
    whole = np.frombuffer(
        _saved(tmp_path, graph, *graph.op("EXP", [graph.input(_SHAPE)], _SHAPE)).read_bytes(), np.uint8
    )
    path = tmp_path / "changed.tflite"
    for _ in range(200):
        changed = whole.copy()
        changed[random.integers(8, whole.size, 4)] = random.integers(0, 256, 4)
        path.write_bytes(changed.tobytes())
        try:
            lint_file(path)
        except FormatError:
            continue


def test_missing_and_other_files_are_said_to_be(tmp_path: Path) -> None:
    other = tmp_path / "text.tflite"
    other.write_text("not a flatbuffer at all")
    for path, words in ((tmp_path / "none.tflite", "must exist"), (other, "TFL3"), (tmp_path / "a.onnx", "must be a")):
        with pytest.raises(FormatError, match=words):
            lint_file(path)
    with pytest.raises(RuntimeNameError, match=r"takes \.mlpackage"):
        lint_file(other, "core-ml")


def _renamed(device: str, folder: Path) -> Path:
    """Writes a device's profile under a name that says nothing."""
    text = profile_path(device).read_text("utf-8").replace(f'name = "{device}"', 'name = "my-device"')
    (folder / "my-device.toml").write_text(text, "utf-8")
    return folder / "my-device.toml"


def test_a_bundle_is_linted_file_by_file_at_its_device_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = SimpleNamespace(path=_broadcast(tmp_path), record={}, chain=())
    large = Graph()
    shape = (1, 4096, 4096, 8)  # 268 MB of float16; the device binds 134 MB
    accepted = SimpleNamespace(path=tmp_path / "large.tflite", record={}, chain=())
    accepted.path.write_bytes(large.bytes(*large.op("EXP", [large.input(shape)], shape)))
    bundle = SimpleNamespace(target="android", device=None, components={"unet": refused, "vae_decoder": accepted})
    monkeypatch.setattr("sdmobile.formats.bundle.reading.open_bundle", lambda _: bundle)
    reports = lint_bundle(tmp_path)
    assert [report.verdict for report in reports] == ["refused", "miscomputed"]
    assert worst(reports) == "refused"
    bundle.components = {"unet": SimpleNamespace(path=accepted.path, record={}, chain=(accepted, refused))}
    assert [report.verdict for report in lint_bundle(tmp_path)] == ["miscomputed", "refused"]
    bundle.device = str(_renamed("android-cpu", tmp_path))
    with pytest.raises(UnsupportedError, match="my-device, whose runtime is xnnpack"):
        lint_bundle(tmp_path)
    assert [report.runtime for report in lint_bundle(tmp_path, "tflite-gpu")] == ["tflite-gpu"] * 2
    bundle.device, bundle.target = None, "onnx"
    with pytest.raises(UnsupportedError):
        lint_bundle(tmp_path)
