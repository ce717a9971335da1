"""Bytes of a tensor on Google's GPU engine: the decided figures, and that all who need them say the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdmobile.formats import graph as neutral
from sdmobile.formats.tflite.gpu_bytes import bhwc, element_bytes, gpu_bytes
from sdmobile.formats.tflite.model import Quantization, Tensor
from sdmobile.formats.tflite.reader import read_graph
from sdmobile.lint.tflite.memory import tensor_bytes
from sdmobile.prediction.kernels.shared_nodes import Draft
from sdmobile.prediction.memory import ML_DRIFT, Storage
from sdmobile.validate.gpu.model_facts import TensorFacts, read_model
from tests.lint.corpus.graph import Graph, Shape

# Bytes of an element at 2 and at 4 bytes per float: computed, stored, computed with a scale. They are those of SizeOf
# (ml_drift/common/data_type.cc) except for FLOAT32, for halves that are stored and for 8 bits with a scale.
_ELEMENTS = {
    "FLOAT32": (2, 4, 2, 4, 2, 4),
    "FLOAT16": (2, 2, 2, 4, 2, 2),
    "BFLOAT16": (2, 2, 2, 4, 2, 2),
    "FLOAT64": (8, 8, 8, 8, 8, 8),
    "INT64": (8, 8, 8, 8, 8, 8),
    "UINT64": (8, 8, 8, 8, 8, 8),
    "INT32": (4, 4, 4, 4, 4, 4),
    "UINT32": (4, 4, 4, 4, 4, 4),
    "INT16": (2, 2, 2, 2, 2, 2),
    "UINT16": (2, 2, 2, 2, 2, 2),
    "INT8": (1, 1, 1, 1, 2, 4),
    "UINT8": (1, 1, 1, 1, 2, 4),
    "INT4": (1, 1, 1, 1, 1, 1),
    "UINT4": (1, 1, 1, 1, 1, 1),
    "INT2": (1, 1, 1, 1, 1, 1),
    "BOOL": (1, 1, 1, 1, 1, 1),
    "STRING": (0, 0, 0, 0, 0, 0),
    "COMPLEX64": (0, 0, 0, 0, 0, 0),
}
# Elements that are held: computed, stored.
_SHAPES: dict[Shape, tuple[int, int]] = {
    (): (4, 4),
    (1,): (4, 4),
    (3,): (12, 4),
    (1280,): (5120, 1280),
    (2, 77): (160, 160),
    (3, 5, 9): (180, 180),
    (1, 64, 64, 3): (16384, 16384),
    (2, 8, 8, 8): (1024, 1024),
    (2, 3, 5, 7, 9): (2520, 2520),
}


@pytest.mark.parametrize(("dtype", "sizes"), _ELEMENTS.items())
def test_bytes_of_an_element(dtype: str, sizes: tuple[int, ...]) -> None:
    kinds = ({}, {"constant": True}, {"quantized": True})
    assert tuple(element_bytes(dtype, size, **kind) for kind in kinds for size in (2, 4)) == sizes
    assert element_bytes(dtype.lower(), 4, constant=True, quantized=True) == sizes[3]


@pytest.mark.parametrize(("shape", "elements"), _SHAPES.items())
def test_elements_that_are_held(shape: Shape, elements: tuple[int, int]) -> None:
    assert (gpu_bytes(shape, "INT8", 2), gpu_bytes(shape, "INT8", 2, constant=True)) == elements


def test_a_single_dimension_is_the_batch() -> None:
    assert [bhwc(shape) for shape in ((), (5,), (5, 6), (5, 6, 7))] == [
        (1, 1, 1, 1),
        (5, 1, 1, 1),
        (5, 1, 1, 6),
        (5, 1, 6, 7),
    ]
    assert (bhwc((5, 6, 7, 8)), bhwc((4, 5, 6, 7, 8))) == ((5, 6, 7, 8), (20, 6, 7, 8))


@pytest.mark.parametrize(
    ("shape", "dtype", "at_float16"),
    [
        ((1280,), "FLOAT16", 10240),
        ((2, 77), "INT64", 1280),
        ((1, 64, 64, 3), "INT8", 16384),
        ((1, 64, 64, 3), "BOOL", 16384),
        ((1, 8, 8, 3), "BFLOAT16", 512),
    ],
)
def test_where_four_formulas_disagreed(shape: Shape, dtype: str, at_float16: int) -> None:
    assert gpu_bytes(shape, dtype, 2) == at_float16


@pytest.mark.parametrize(("kind", "column"), [("computed", 0), ("stored", 2), ("quantized", 4)])
@pytest.mark.parametrize("dtype", _ELEMENTS)
@pytest.mark.parametrize("shape", _SHAPES)
def test_all_who_need_them_say_the_same(shape: Shape, dtype: str, kind: str, column: int) -> None:
    constant, scaled = kind == "stored", kind == "quantized"
    stored = Tensor(0, "t", shape, dtype, constant, Quantization("affine", 1, 0) if scaled else None)
    held = neutral.Tensor("t", shape, dtype.lower(), constant, 0, scaled)
    for size, precision, per_element in zip((2, 4), ("float16", "float32"), _ELEMENTS[dtype][column:], strict=False):
        draft = Draft(size)
        draft.declare(held)
        assert {
            "lint": tensor_bytes(stored, size),
            "gpu-check": TensorFacts("t", shape, dtype, constant, scaled).bytes_on_gpu(precision),
            "memory": Storage(size, gpu=True).bytes_of(held),
            "kernels": draft.bytes("t"),
        } == dict.fromkeys(("lint", "gpu-check", "memory", "kernels"), _SHAPES[shape][constant] * per_element)


def test_all_read_the_same_from_a_file(tmp_path: Path) -> None:
    graph = Graph()
    plain = graph.input((1, 8, 8, 3), "int8")
    scaled = graph.quantized(graph.input((1, 8, 8, 3), "int8"), [0.5])
    row = graph.weights(1280, dtype="float16")
    (result,) = graph.op("ADD", [plain, row], (1, 8, 8, 3), dtype="int32")
    graph.op("ADD", [scaled, result], (1280,))
    path = tmp_path / "model.tflite"
    path.write_bytes(graph.bytes(result))
    read = neutral.read_graph(path)
    draft = Draft(2)
    for tensor in read.tensors.values():
        draft.declare(tensor)
    expected = [256, 512, 2560, 1024, 10240]  # the last is a computed row
    assert [tensor_bytes(tensor, 2) for tensor in read_graph(path).tensors] == expected
    assert [tensor.bytes_on_gpu("float16") for tensor in read_model(path).tensors] == expected
    names = [tensor.name for tensor in read_graph(path).tensors]
    assert [ML_DRIFT.bytes_of(read.tensors[name]) for name in names] == expected
    assert [draft.bytes(name) for name in names] == expected
