"""Memory plans: the numbers of the reference implementation, properties of any plan, and TFLite's own arena."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.calibration.stored import stored_graph
from sdmobile.formats.graph import FileGraph, Operation, Tensor
from sdmobile.prediction.kernels import Kernel
from sdmobile.prediction.kernels.google_gpu import ml_drift_kernels
from sdmobile.prediction.memory import (
    ARENA_RANGE,
    CORE_ML,
    ML_DRIFT,
    XNNPACK,
    Storage,
    Usage,
    plan,
    plan_graph,
    usages,
)

_NO_PADDING = Storage(float_bytes=2, alignment=1)


def _buffers(*records: tuple[int, int, int]) -> list[Usage]:
    return [Usage(str(index), *record) for index, record in enumerate(records)]


# Expected offsets: tensorflow/lite/delegates/gpu/common/memory_management_test.cc, GREEDY_BY_SIZE.
_CHAIN = _buffers((16, 0, 1), (8, 1, 2), (64, 2, 3), (32, 3, 4), (8, 4, 5))
_COMPLEX = _buffers(
    *((32, 0, 1), (32, 1, 4), (8, 2, 5), (16, 3, 5), (8, 4, 5)), *((64, 5, 7), (8, 6, 8), (8, 7, 8), (16, 8, 9))
)


@pytest.mark.parametrize(
    ("buffers", "alignment", "offsets", "arena", "bound"),
    [
        (_CHAIN, 1, [0, 64, 0, 64, 0], 96, 96),
        (_CHAIN, 128, [0, 128, 0, 128, 0], 160, 96),
        (_COMPLEX, 1, [0, 32, 80, 64, 88, 0, 64, 72, 0], 96, 96),
        ([], 1, [], 0, 0),
    ],
)
def test_the_offsets_of_the_reference(
    buffers: list[Usage], alignment: int, offsets: list[int], arena: int, bound: int
) -> None:
    made = plan(buffers, alignment)
    assert [made.offsets[str(index)] for index in range(len(buffers))] == offsets
    assert (made.arena, made.lower_bound) == (arena, bound)
    assert made.naive == sum(usage.size for usage in buffers)


def test_the_smallest_gap_that_fits_is_taken() -> None:
    # At step 1 the buffers of 60 and 40 are gone and leave gaps at 170 and at 280; the last buffer needs 35.
    buffers = _buffers((100, 0, 1), (70, 0, 1), (60, 0, 0), (50, 0, 1), (40, 0, 0), (36, 0, 1), (35, 1, 1))
    made = plan(buffers)
    assert [made.offsets[str(index)] for index in range(7)] == [0, 100, 170, 230, 280, 320, 280]
    assert made.arena == 356


_RECORDS = st.lists(
    st.tuples(st.integers(1, 200), st.integers(0, 12), st.integers(0, 6)).map(lambda r: (r[0], r[1], r[1] + r[2])),
    max_size=25,
)


@given(_RECORDS, st.sampled_from([1, 16, 64]))
def test_tensors_alive_at_the_same_time_do_not_overlap(records: list[tuple[int, int, int]], alignment: int) -> None:
    buffers = _buffers(*records)
    made = plan(buffers, alignment)
    for index, one in enumerate(buffers):
        assert made.offsets[one.name] % alignment == 0
        for other in buffers[index + 1 :]:
            if one.first <= other.last and other.first <= one.last:
                start, other_start = made.offsets[one.name], made.offsets[other.name]
                assert start + one.size <= other_start or other_start + other.size <= start


@given(_RECORDS)
def test_the_arena_lies_between_the_bound_and_the_sum(records: list[tuple[int, int, int]]) -> None:
    buffers = _buffers(*records)
    made = plan(buffers)
    steps = range(20)
    most = max((sum(u.size for u in buffers if u.first <= step <= u.last) for step in steps), default=0)
    assert made.lower_bound == most <= made.arena <= made.naive
    assert sum(usage.size for usage in made.alive(made.peak_step)) == most


def _graph() -> FileGraph:
    """x → conv → reshape → softmax → conv, with a weight."""
    shapes = {"x": (1, 6, 10), "a": (1, 6, 10), "r": (1, 60), "s": (1, 60), "y": (1, 6, 5)}
    tensors = {name: Tensor(name, shape, "float16", False) for name, shape in shapes.items()}
    tensors["w"] = Tensor("w", (6, 6), "float16", True, 72)
    operations = (
        Operation("conv", "", ("x", "w"), ("a",)),
        Operation("reshape", "", ("a",), ("r",)),
        Operation("softmax", "", ("r",), ("s",)),
        Operation("conv", "", ("s", "w"), ("y",)),
    )
    return FileGraph("mlprogram", tensors, operations, ("x",), ("y",), 100)


def test_lifetimes_with_a_view_that_takes_no_memory() -> None:
    assert usages(_graph(), _NO_PADDING) == (
        Usage("x", 120, 0, 3),
        Usage("a", 120, 0, 2),
        Usage("s", 120, 2, 3),
        Usage("y", 60, 3, 3),
    )


def test_lifetimes_without_views_and_with_padded_channels() -> None:
    found = {usage.name: (usage.size, usage.first, usage.last) for usage in usages(_graph(), ML_DRIFT)}
    # channels 10 → 12 and 5 → 8, two bytes each
    assert found == {"x": (144, 0, 3), "a": (144, 0, 1), "r": (120, 1, 2), "s": (120, 2, 3), "y": (96, 3, 3)}


def test_what_stays_within_a_kernel_takes_no_memory() -> None:
    kernels = [
        Kernel("conv", "", (0,), 0, 0, 0, 0, 0),
        Kernel("attention", "", (1, 2, 3), 0, 0, 0, 0, 0),
    ]
    found = usages(_graph(), _NO_PADDING, kernels)
    assert [(usage.name, usage.first, usage.last) for usage in found] == [("x", 0, 1), ("a", 0, 1), ("y", 1, 1)]


def test_what_the_kernels_of_one_operation_hand_on_takes_memory() -> None:
    tiles = [Kernel("winograd", "", (0,), 0, 0, 0, size, 0) for size in (300, 500, 120)]
    kernels = [*tiles, Kernel("attention", "", (1, 2, 3), 0, 0, 0, 60, 0)]
    found = {usage.name: usage for usage in usages(_graph(), _NO_PADDING, kernels)}
    assert found.pop("kernel 0") == Usage("kernel 0", 300, 0, 1)  # tiles: the product has read them
    assert found.pop("kernel 1") == Usage("kernel 1", 500, 1, 2)
    assert {name: (usage.first, usage.last) for name, usage in found.items()} == {"x": (0, 3), "a": (2, 3), "y": (3, 3)}
    scores = [replace(kernel, category="softmax") for kernel in tiles]
    kept = {usage.name: usage for usage in usages(_graph(), _NO_PADDING, [*scores, kernels[-1]])}
    assert kept["kernel 0"] == Usage("kernel 0", 300, 0, 2)  # scores: a reduction and a product read them


def test_the_input_of_winograd_is_free_once_its_tiles_are_cut() -> None:
    alone = [Kernel("conv", "", (index,), 0, 0, 0, 0, 0) for index in (0, 1, 3)]
    tiles = [Kernel("winograd", "", (2,), 0, 0, 0, size, 0) for size in (300, 500, 120)]
    kernels = [*alone[:2], *tiles, alone[2]]
    found = {usage.name: (usage.first, usage.last) for usage in usages(_graph(), _NO_PADDING, kernels)}
    assert found["a"] == (0, 2)  # which r is a view of; not 4, the last of the three
    assert found["s"] == (4, 5)


@pytest.mark.parametrize(("part", "published"), [("text_encoder", 2), ("unet", 65), ("vae_decoder", 320)])
def test_planned_arenas_are_those_that_the_engine_s_authors_publish(part: str, published: int) -> None:
    """ML Drift, arXiv 2505.00232, figure 3, in MB; its own Stable Diffusion forbids Winograd's method."""
    graph = stored_graph(f"sd15_512_{part}")
    planned = round(plan_graph(graph, ML_DRIFT, ml_drift_kernels(graph, winograd=None)).arena / 1e6)
    assert ARENA_RANGE[0] <= published / planned <= ARENA_RANGE[1]


def test_numbers_of_other_types_keep_their_size() -> None:
    for dtype, bytes_ in {"bool": 1, "int8": 1, "int32": 4, "int64": 8, "float32": 2, "bfloat16": 2}.items():
        assert CORE_ML.bytes_of(Tensor("t", (3, 5), dtype, False)) == 15 * bytes_
    assert XNNPACK.bytes_of(Tensor("t", (), "float16", False)) == 4


def test_the_plan_of_a_graph() -> None:
    made = plan_graph(_graph(), _NO_PADDING)
    assert (made.naive, made.lower_bound, made.arena) == (420, 360, 360)
