"""Which operations Google's engines put into one kernel, and the traffic of what is left."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmobile.device_profiles.costs_schema import Unit
from sdmobile.device_profiles.fact import Fact
from sdmobile.device_profiles.runtime_rules.kernel import Kernel
from sdmobile.device_profiles.runtime_rules.winograd import LITERT_DELEGATE, ML_DRIFT, Gpu
from sdmobile.errors import UnsupportedError
from sdmobile.formats.graph import FileGraph
from sdmobile.prediction.kernels import kernels_of
from sdmobile.prediction.kernels.google_gpu import SHARED, ml_drift_kernels, tflite_gpu_kernels
from sdmobile.prediction.kernels.shared_lowering import Lowering
from sdmobile.prediction.kernels.shared_nodes import link, merge_elementwise, merge_reorders
from tests.prediction.small_graphs import Small

_IMAGE = (1, 16, 16, 32)
_BYTES = math.prod(_IMAGE) * 2
Engine = Callable[..., tuple[Kernel, ...]]
_ENGINES = (ml_drift_kernels, tflite_gpu_kernels)


def _inner(kernels: tuple[Kernel, ...]) -> list[Kernel]:
    """Returns the kernels without the conversions of the graph's inputs and outputs."""
    return [kernel for kernel in kernels if kernel.operations]


def _parts(graph: FileGraph, kernels: tuple[Kernel, ...]) -> list[tuple[str, ...]]:
    return [tuple(graph.operations[i].kind for i in kernel.operations) for kernel in _inner(kernels)]


@pytest.mark.parametrize("engine", _ENGINES)
def test_inputs_and_outputs_are_converted_by_a_kernel_each(engine: Engine) -> None:
    small = Small()
    x, y = small.input(*_IMAGE), small.input(*_IMAGE)
    kernels = engine(small.graph(small.op("add", [x, y], _IMAGE)))
    assert [kernel.note for kernel in kernels if not kernel.operations] == [
        "to the engine's layout",
        "to the engine's layout",
        "from the engine's layout",
    ]
    assert [(kernel.read_bytes, kernel.write_bytes) for kernel in kernels] == [
        (2 * _BYTES, _BYTES),  # float32 outside, float16 inside
        (2 * _BYTES, _BYTES),
        (2 * _BYTES, _BYTES),  # the sum
        (_BYTES, 2 * _BYTES),
    ]


@pytest.mark.parametrize("engine", _ENGINES)
def test_a_convolution_takes_over_activation_and_residual(engine: Engine) -> None:
    small = Small()
    x = small.input(*_IMAGE)
    first = small.op("relu", [small.conv(x, 32)], _IMAGE)
    total = small.op("add", [x, small.conv(first, 32)], _IMAGE)
    graph = small.graph(small.op("hard_swish", [total], _IMAGE))
    kernels = engine(graph)
    assert _parts(graph, kernels) == [("conv_2d", "relu"), ("conv_2d", "add", "hard_swish")]
    first_kernel, second = _inner(kernels)
    assert (first_kernel.read_bytes, first_kernel.write_bytes) == (_BYTES, _BYTES)
    assert (second.read_bytes, second.write_bytes) == (2 * _BYTES, _BYTES)  # its input and the residual
    assert first_kernel.weight_bytes == (9 * 32 * 32 + 32) * 2


@pytest.mark.parametrize("engine", _ENGINES)
def test_silu_is_one_kernel_with_the_pooling_in_front_of_it(engine: Engine) -> None:
    small = Small()
    x = small.op("max_pool_2d", [small.input(*_IMAGE)], _IMAGE)
    graph = small.graph(small.op("mul", [x, small.op("logistic", [x], _IMAGE)], _IMAGE))
    assert _parts(graph, engine(graph)) == [("max_pool_2d", "logistic", "mul")]


@pytest.mark.parametrize("engine", _ENGINES)
def test_a_value_that_is_read_twice_is_written(engine: Engine) -> None:
    small = Small()
    x = small.conv(small.input(*_IMAGE), 32)
    one, other = small.op("relu", [x], _IMAGE), small.conv(x, 32)
    graph = small.graph(one, other)
    assert sorted(_parts(graph, engine(graph))) == [("conv_2d",), ("conv_2d",), ("relu",)]


@pytest.mark.parametrize("engine", _ENGINES)
def test_a_sum_is_not_linked_to_what_runs_before_its_other_term(engine: Engine) -> None:
    """The bias per channel of a residual block: computed after the convolution, it cannot be part of its kernel."""
    for late in (False, True):
        small = Small()
        x, embedding = small.input(*_IMAGE), small.input(1, 8)
        bias = "" if late else small.op("fully_connected", [embedding, small.weights(32, 8)], (1, 32))
        image = small.conv(x, 32)
        bias = bias or small.op("fully_connected", [embedding, small.weights(32, 8)], (1, 32))
        graph = small.graph(small.op("add", [image, bias], _IMAGE))
        joined = ("conv_2d", "add") in _parts(graph, engine(graph))
        assert joined is not late


@pytest.mark.parametrize("engine", _ENGINES)
def test_padding_belongs_to_the_convolution_behind_it(engine: Engine) -> None:
    small = Small()
    x = small.input(*_IMAGE)
    wide = small.op(
        "pad", [x, small.weights(4, 2, dtype="int32")], (1, 18, 18, 32), constant_inputs={"1": [0, 0, 1, 1, 1, 1, 0, 0]}
    )
    graph = small.graph(small.conv(wide, 32))
    assert _parts(graph, engine(graph)) == [("conv_2d",)]


def test_reshape_and_transpose_are_one_copy_in_ml_drift_only() -> None:
    small = Small()
    x = small.input(*_IMAGE)
    heads = small.op("reshape", [small.op("reshape", [x], (1, 256, 32))], (1, 256, 8, 4))
    turned = small.op("transpose", [heads], (1, 8, 256, 4), constant_inputs={"1": [0, 2, 1, 3]})
    graph = small.graph(small.op("softmax", [turned], (1, 8, 256, 4)))
    assert _parts(graph, ml_drift_kernels(graph)) == [("reshape", "reshape", "transpose"), ("softmax",)]
    assert len(_inner(tflite_gpu_kernels(graph))) == 4


@pytest.mark.parametrize("engine", _ENGINES)
def test_a_reshape_that_keeps_the_engine_s_shape_is_nothing(engine: Engine) -> None:
    small = Small()
    x = small.op("softmax", [small.input(1, 4, 8)], (1, 4, 8))
    graph = small.graph(small.op("softmax", [small.op("reshape", [x], (1, 1, 4, 8))], (1, 1, 4, 8)))
    assert _parts(graph, engine(graph)) == [("softmax",), ("softmax",)]


def test_a_product_of_computed_values_converts_the_right_one() -> None:
    small = Small()
    x, y = small.input(1, 64, 32), small.input(1, 32, 48)
    kernels = _inner(ml_drift_kernels(small.graph(small.op("batch_matmul", [x, y], (1, 64, 48)))))
    assert [kernel.category for kernel in kernels] == ["reorder", "matmul"]
    assert kernels[0].read_bytes == kernels[0].write_bytes == 32 * 48 * 2
    assert (kernels[1].macs, kernels[1].read_bytes) == (64 * 32 * 48, (64 * 32 + 32 * 48) * 2)


def test_as_many_groups_as_channels_are_a_depthwise_convolution() -> None:
    small = Small()
    image = small.input(*_IMAGE)
    result = small.op("conv_2d", [image, small.weights(32, 3, 3, 1)], _IMAGE, strideH=1, strideW=1)
    (kernel,) = _inner(ml_drift_kernels(small.graph(result)))
    assert (kernel.category, kernel.macs) == ("depthwise", 16 * 16 * 32 * 9)


def test_a_slice_reads_what_it_writes() -> None:
    small = Small()
    x = small.input(*_IMAGE)
    (kernel,) = _inner(ml_drift_kernels(small.graph(small.op("slice", [x], (1, 16, 16, 8)))))
    assert kernel.read_bytes == kernel.write_bytes == _BYTES // 4


def test_integer_weights_of_a_matrix_product_stay_integers_in_ml_drift() -> None:
    small = Small()
    x = small.input(1, 4, 64)
    graph = small.graph(small.op("fully_connected", [x, small.weights(128, 64, dtype="int8")], (1, 4, 128)))
    assert [_inner(engine(graph))[0].weight_bytes for engine in _ENGINES] == [128 * 64, 128 * 64 * 2]


def _unit(runtime: str, gpu: str | None) -> Unit:
    fact = Fact(value=1e12, source="test", reliability="low")
    return Unit.model_validate({"runtime": runtime, "gpu": gpu, "peak_macs": fact, "dram_bandwidth": fact})


def test_the_runtime_of_a_unit_decides() -> None:
    """128 channels and 64 tiles: enough for the classic delegate on Adreno 7xx, too few for ML Drift."""
    small = Small()
    graph = small.graph(small.conv(small.input(1, 32, 32, 128), 128))
    categories = {
        runtime: {kernel.category for kernel in _inner(kernels_of(graph, _unit(runtime, gpu)))}
        for runtime, gpu in (("ml-drift", "adreno7xx"), ("tflite-gpu", "adreno7xx"))
    }
    assert categories == {"ml-drift": {"conv"}, "tflite-gpu": {"winograd"}}
    assert {kernel.category for kernel in _inner(kernels_of(graph, _unit("ml-drift", "other")))} == {"winograd"}
    with pytest.raises(UnsupportedError, match="tflite file"):
        kernels_of(graph, _unit("coreml-gpu", None))


_SIZES = st.integers(1, 40)
_CHANNELS = st.integers(1, 300)


@settings(max_examples=40, deadline=None)
@given(_SIZES, _SIZES, _CHANNELS, _CHANNELS, st.integers(1, 2), st.sampled_from(list(Gpu)))
def test_a_convolution_costs_what_its_sizes_say(
    height: int, width: int, channels: int, out_channels: int, batch: int, gpu: Gpu
) -> None:
    small = Small()
    graph = small.graph(small.conv(small.input(batch, height, width, channels), out_channels))
    direct = batch * height * width * 9 * channels * out_channels
    for engine in _ENGINES:
        kernels = _inner(engine(graph, gpu))
        fours = (-(-channels // 4) * 4, -(-out_channels // 4) * 4)
        assert sum(kernel.operator_macs for kernel in kernels) == direct
        assert kernels[-1].write_bytes == batch * height * width * fours[1] * 2
        executed = sum(kernel.macs for kernel in kernels)
        tiles = -(-height // 4) * -(-width // 4)
        per_tile = 36 if len(kernels) == 3 else 9 * height * width / tiles
        assert executed == pytest.approx(batch * tiles * per_tile * math.prod(fours))
        if len(kernels) == 3 and min(height, width) >= 4:
            # worst for 5x5: four tiles of 36 products against 25 positions of 9
            assert executed <= 144 / 225 * batch * height * width * 9 * math.prod(fours)


@settings(max_examples=40, deadline=None)
@given(_SIZES, st.integers(1, 80), st.integers(1, 40), st.sampled_from(["conv_2d", "odml.group_norm", "batch_matmul"]))
def test_more_channels_never_need_less(size: int, channels: int, more: int, kind: str) -> None:
    """Below the 128 channels at which a convolution changes to Winograd's method, which may need less."""
    few, many = (_one(kind, size, count) for count in (channels, channels + more))
    for field in ("macs", "operator_macs", "bytes"):
        assert sum(getattr(k, field) for k in few) <= sum(getattr(k, field) for k in many)


def _one(kind: str, size: int, channels: int) -> list[Kernel]:
    small = Small()
    x = small.input(1, size, size, channels)
    if kind == "conv_2d":
        result = small.conv(x, channels)
    elif kind == "batch_matmul":
        result = small.op(kind, [x, small.input(1, size, channels, size)], (1, size, size, size))
    else:
        result = small.op(kind, [x, small.weights(channels), small.weights(channels)], (1, size, size, channels))
    return _inner(ml_drift_kernels(small.graph(result)))


_KINDS = st.sampled_from(["conv_2d", "relu", "add", "mul", "reshape", "softmax", "scale", "gate"])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(_KINDS, st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=14), st.integers(0, 9))
def test_fused_nodes_find_their_inputs_written_and_do_all_operations(steps: list, kept: int) -> None:
    small = Small()
    values = [small.input(*_IMAGE)]
    for kind, first, second in steps:
        one, other = values[first % len(values)], values[second % len(values)]
        values.append(_step(small, kind, one, other))
    outputs = dict.fromkeys((values[-1], values[1 + kept % (len(values) - 1)]))
    graph = small.graph(*outputs)
    for rule, passes in (
        (ML_DRIFT, (merge_reorders, merge_elementwise, link)),
        (LITERT_DELEGATE, (merge_elementwise, link)),
    ):
        draft = Lowering(graph, SHARED, rule, Gpu.ADRENO_7XX, 2, keeps_integers=False).run()
        unfused = sum(kernel.bytes for kernel in draft.kernels())
        for fuse in passes:
            fuse(draft)
        written = set(draft.inputs)
        for node in draft.nodes:
            assert written.issuperset([*node.inputs, *node.linked])
            written.update(node.outputs)
        assert written.issuperset(outputs)
        # every operation once; of the reshapes, which keep the shape, only one that is a result of the graph
        done = sorted(index for node in draft.nodes for index in node.operations)
        assert len(done) == len(set(done))
        assert set(done) >= {i for i, operation in enumerate(graph.operations) if operation.kind != "reshape"}
        assert sum(kernel.bytes for kernel in draft.kernels()) <= unfused


def _step(small: Small, kind: str, one: str, other: str) -> str:
    if kind == "conv_2d":
        return small.conv(one, 32)
    if kind == "scale":
        return small.op("mul", [one, small.weights(32)], _IMAGE)
    if kind == "gate":
        return small.op("mul", [one, small.op("logistic", [one], _IMAGE)], _IMAGE)
    return small.op(kind, [one, other] if kind in ("add", "mul") else [one], _IMAGE)
