"""XNNPACK's kernels: arithmetic by hand, what is fused, what passes the caches."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.calibration.macs import graph_macs
from benchmarks.calibration.stored import stored_graph
from sdmobile.device_profiles import load_profile
from sdmobile.device_profiles.costs_schema import Unit
from sdmobile.formats.graph import FileGraph
from sdmobile.prediction.kernels import Kernel, kernels_of
from sdmobile.prediction.kernels.xnnpack import missed, xnnpack_kernels
from tests.prediction.small_graphs import Small

MIB = 2**20


def only(graph: FileGraph, **sizes: int) -> Kernel:
    (kernel,) = xnnpack_kernels(graph, **sizes)
    return kernel


def test_a_convolution_is_a_product_of_whole_tiles() -> None:
    small = Small()
    kernel = only(small.graph(small.conv(small.input(1, 5, 5, 8), channels=20)))

    assert (kernel.category, kernel.note) == ("conv", "25 x 72 x 20")
    assert kernel.operator_macs == 25 * 72 * 20
    assert kernel.macs == 28 * 72 * 32  # four tiles of 7 rows, one of 32 columns
    assert kernel.bytes == 0  # a second inference finds everything in the cache


def test_a_1x1_convolution_and_a_fully_connected_layer_are_the_same_product() -> None:
    conv, dense = Small(), Small()
    first = only(conv.graph(conv.conv(conv.input(1, 7, 7, 32), 48, kernel=1)))
    given = dense.input(49, 32)
    second = only(dense.graph(dense.op("fully_connected", [given, dense.weights(48, 32)], (49, 48))))

    assert (first.category, first.macs) == (second.category, second.macs) == ("matmul", 49 * 32 * 48)


@pytest.mark.parametrize(("columns", "executed"), [(8, 16), (16, 16), (24, 32), (48, 64), (80, 96)])
def test_convolutions_have_columns_in_steps_of_32_or_up_to_16(columns: int, executed: int) -> None:
    small = Small()
    assert only(small.graph(small.conv(small.input(1, 7, 7, 8), columns))).macs == 49 * 72 * executed


@pytest.mark.parametrize(("rows", "executed"), [(1, 3), (2, 7), (7, 7), (8, 14)])
def test_products_have_rows_in_steps_of_7_and_columns_in_steps_of_16(rows: int, executed: int) -> None:
    small = Small()
    given = small.input(rows, 64)
    assert only(small.graph(small.op("fully_connected", [given, small.weights(40, 64)], (rows, 40)))).macs == (
        executed * 64 * 48
    )


def test_zero_padding_and_clamps_cost_nothing_and_other_functions_do() -> None:
    def kernels(function: str) -> tuple[Kernel, ...]:
        small = Small()
        padded = small.op("pad", [small.input(1, 6, 6, 16)], (1, 8, 8, 16))
        return xnnpack_kernels(small.graph(small.op(function, [small.conv(padded, 16)], (1, 8, 8, 16))))

    assert [(k.category, k.operations) for k in kernels("relu6")] == [("conv", (0, 1, 2))]
    assert [k.category for k in kernels("logistic")] == ["conv", "elementwise"]


def test_padding_that_somebody_else_reads_stays() -> None:
    small = Small()
    padded = small.op("pad", [small.input(1, 6, 6, 16)], (1, 8, 8, 16))
    kernels = xnnpack_kernels(small.graph(small.conv(padded, 16), padded))

    assert [kernel.category for kernel in kernels] == ["copy", "conv"]


def test_a_reshape_moves_nothing_and_its_result_is_its_source_in_the_cache() -> None:
    small = Small()
    first = small.op("logistic", [small.input(1, 1024, 1024)], (1, 1024, 1024))
    graph = small.graph(small.op("tanh", [small.op("reshape", [first], (1024, 1024))], (1024, 1024)))

    assert [k.read_bytes + k.write_bytes for k in xnnpack_kernels(graph, last_level=12 * MIB)] == [0, 0]
    # 8 MiB hold two of the three tensors: the input and both results pass the memory, the value between does not.
    assert [(k.read_bytes, k.write_bytes) for k in xnnpack_kernels(graph, last_level=8 * MIB)] == [
        (4 * MIB, 4 * MIB),
        (0, 4 * MIB),
    ]


def test_vector_instructions_of_elementwise_operators() -> None:
    small = Small()
    image = small.input(1, 8, 8, 64)
    same = small.op("add", [image, image], (1, 8, 8, 64))
    sigmoid = small.op("logistic", [same], (1, 8, 8, 64))
    per_row = small.op("mul", [sigmoid, small.input(1, 8, 8, 1)], (1, 8, 8, 64))
    same_kernel, sigmoid_kernel, row_kernel = xnnpack_kernels(small.graph(per_row))

    assert same_kernel.macs == 3 * 4096 + 35  # two loads and a store per element, one run
    assert sigmoid_kernel.macs == 4 * 4096 + 35
    assert row_kernel.macs == 64 * (2 * 64 + 35)  # one run per row
    assert same_kernel.operator_macs == 0


def test_depthwise_kernels_have_room_for_9_and_25_taps_and_are_slow_above() -> None:
    def macs(kernel: int) -> int:
        small = Small()
        inputs = [small.input(1, 8, 8, 32), small.weights(1, kernel, kernel, 32)]
        return only(small.graph(small.op("depthwise_conv_2d", inputs, (1, 8, 8, 32)))).macs

    assert [macs(k) / (64 * 32) for k in (3, 4, 5, 7)] == [9, 25, 25, 9 * 49]


def test_tiles_that_the_second_level_cache_cannot_hold_are_read_again() -> None:
    small = Small()
    graph = small.graph(small.conv(small.input(1, 16, 16, 1280), 64))
    inner = 9 * 1280

    assert only(graph).read_bytes == 37 * 2 * (7 + 32) * 4 * inner
    assert "exceed" in only(graph).note
    assert only(graph, second_level=2 * MIB).read_bytes == 0


def test_attention_runs_in_pieces_with_its_definition_s_arithmetic() -> None:
    small = Small()
    query, key, value = small.input(1, 64, 4, 32), small.input(1, 80, 4, 32), small.input(1, 80, 4, 32)
    graph = small.graph(small.op("odml.scaled_dot_product_attention", [query, key, value], (1, 64, 4, 32)))
    kernels = xnnpack_kernels(graph)

    assert sum(kernel.operator_macs for kernel in kernels) == 2 * 4 * 64 * 80 * 32
    assert [k.category for k in kernels if k.category != "copy"] == ["elementwise", "matmul", "softmax", "matmul"]
    assert sum(k.category == "copy" for k in kernels) == 4
    assert {kernel.operations for kernel in kernels} == {(0,)}


def test_a_group_norm_reduces_three_times_and_a_layer_norm_twice() -> None:
    def reductions(groups: int) -> int:
        small = Small()
        inputs = [small.input(1, 8, 8, 64), small.weights(64), small.weights(64)]
        graph = small.graph(small.op("odml.group_norm", inputs, (1, 8, 8, 64), num_groups=groups))
        return sum(kernel.category == "reduce" for kernel in xnnpack_kernels(graph))

    assert (reductions(32), reductions(1)) == (3, 2)


@pytest.mark.parametrize("name", ["mobilenet_v2_100", "efficientvit_b1", "swin_tiny", "sd15_512_unet"])
def test_operator_macs_are_those_of_the_graph(name: str) -> None:
    kernels = xnnpack_kernels(stored_graph(name))

    assert sum(kernel.operator_macs for kernel in kernels) == pytest.approx(graph_macs(stored_graph(name)), rel=1e-3)
    assert all(kernel.macs >= kernel.operator_macs for kernel in kernels if "1 x " not in kernel.note[:4])


@given(
    st.lists(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 9), max_size=3), min_size=1, max_size=8),
    st.integers(1, 60),
)
def test_a_larger_cache_never_misses_more(accesses: list[dict[str, int]], capacity: int) -> None:
    sizes = {name: size for each in accesses for name, size in each.items()}
    accesses = [{name: sizes[name] for name in each} for each in accesses]

    def count(held: int) -> int:
        return sum(len(names) for names in missed(accesses, held))

    assert count(capacity + 10) <= count(capacity)
    assert count(sum(sizes.values())) == 0


def test_the_profile_s_unit_runs_xnnpack_with_its_own_caches() -> None:
    unit = load_profile("cpu").units["cpu-1"]
    graph = stored_graph("mobilenet_v2_100")
    small = replace_cache(unit, 2**20)

    assert kernels_of(graph, unit) == xnnpack_kernels(graph, 32 * MIB, MIB)
    assert sum(k.bytes for k in kernels_of(graph, small)) > sum(k.bytes for k in kernels_of(graph, unit))


def replace_cache(unit: Unit, size: int) -> Unit:
    assert unit.last_level is not None
    return unit.model_copy(update={"last_level": unit.last_level.model_copy(update={"value": size})})


def test_a_value_used_twice_keeps_its_clamp() -> None:
    small = Small()
    conv = small.conv(small.input(1, 8, 8, 16), 16)
    clamped = small.op("relu", [conv], (1, 8, 8, 16))
    graph = small.graph(clamped)
    twice = replace(graph, outputs=(clamped, conv))

    assert [k.category for k in xnnpack_kernels(graph)] == ["conv"]
    assert [k.category for k in xnnpack_kernels(twice)] == ["conv", "elementwise"]
