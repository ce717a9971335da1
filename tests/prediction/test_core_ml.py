"""The coarse kernel model of Core ML: counts, bytes and fusion on small graphs whose numbers can be done by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdmobile.formats.graph import FileGraph, Operation, Tensor, read_graph
from sdmobile.formats.mlprogram.read import read_program
from sdmobile.lint import lint_file
from sdmobile.lint.coreml.operations import named_constants, objections
from sdmobile.prediction.kernels import Kernel
from sdmobile.prediction.kernels.core_ml import category, core_ml_kernels, macs, off_neural_engine


def _graph(
    operations: list[Operation],
    shapes: dict[str, tuple[int, ...]],
    weights: dict[str, tuple[tuple[int, ...], int]] | None = None,
    dtypes: dict[str, str] | None = None,
) -> FileGraph:
    """A graph of float16 tensors; `weights` gives shape and stored bytes."""
    tensors = {name: Tensor(name, shape, (dtypes or {}).get(name, "float16"), False) for name, shape in shapes.items()}
    tensors |= {name: Tensor(name, shape, "float16", True, n) for name, (shape, n) in (weights or {}).items()}
    made = {name for operation in operations for name in operation.outputs}
    used = {name for operation in operations for name in operation.inputs}
    inputs = tuple(name for name in shapes if name not in made)
    return FileGraph("mlprogram", tensors, tuple(operations), inputs, tuple(n for n in shapes if n not in used), 0)


def _op(kind: str, inputs: str, outputs: str, **options: Any) -> Operation:
    return Operation(kind, f"block.{kind}", tuple(inputs.split()), tuple(outputs.split()), options)


_SHAPES = {"x": (2, 8, 16, 32), "y": (2, 12, 16, 32)}


@pytest.mark.parametrize(
    ("operation", "shapes", "weights", "kind", "count"),
    [
        (_op("conv", "x w", "y"), _SHAPES, {"w": (12, 8, 3, 3)}, "conv", 2 * 12 * 16 * 32 * 8 * 9),
        (_op("conv", "x w", "y"), _SHAPES, {"w": (12, 8, 1, 1)}, "conv", 2 * 12 * 16 * 32 * 8),
        (_op("conv", "x w", "y", groups=4), _SHAPES, {"w": (12, 2, 3, 3)}, "conv", 2 * 12 * 16 * 32 * 2 * 9),
        (
            _op("conv", "x w", "y", groups=8),
            {"x": (1, 8, 4, 4), "y": (1, 8, 4, 4)},
            {"w": (8, 1, 5, 5)},
            "depthwise",
            8 * 16 * 25,
        ),
        (
            _op("conv_transpose", "x w", "y"),
            {"x": (1, 8, 4, 4), "y": (1, 6, 8, 8)},
            {"w": (8, 6, 2, 2)},
            "conv",
            8 * 16 * 6 * 4,
        ),
        (_op("linear", "x w", "y"), {"x": (3, 77, 64), "y": (3, 77, 96)}, {"w": (96, 64)}, "matmul", 3 * 77 * 96 * 64),
        (
            _op("matmul", "a b", "y", transpose_x=True, transpose_y=False),
            {"a": (2, 5, 7), "b": (2, 5, 9), "y": (2, 7, 9)},
            {},
            "matmul",
            2 * 7 * 9 * 5,
        ),
        (
            _op("einsum", "q k", "y", equation="bchq,bkhc->bkhq"),
            {"q": (2, 40, 1, 64), "k": (2, 77, 1, 40), "y": (2, 77, 1, 64)},
            {},
            "matmul",
            2 * 40 * 64 * 77,
        ),
        (
            _op("scaled_dot_product_attention", "q k v", "y"),
            {"q": (2, 8, 64, 40), "k": (2, 8, 77, 40), "v": (2, 8, 77, 48), "y": (2, 8, 64, 48)},
            {},
            "attention",
            2 * 8 * 64 * 77 * (40 + 48),
        ),
        (_op("softmax", "x", "y"), {"x": (4, 4), "y": (4, 4)}, {}, "softmax", 0),
        (_op("never_heard_of", "x", "y"), {"x": (4, 4), "y": (4, 4)}, {}, "elementwise", 0),
    ],
)
def test_category_and_multiply_accumulates(
    operation: Operation,
    shapes: dict[str, tuple[int, ...]],
    weights: dict[str, tuple[int, ...]],
    kind: str,
    count: int,
) -> None:
    graph = _graph([operation], shapes, {name: (shape, 2 * math.prod(shape)) for name, shape in weights.items()})
    assert category(graph, operation) == kind
    assert macs(graph, operation) == count
    assert [(kernel.macs, kernel.operator_macs) for kernel in core_ml_kernels(graph)] == [(count, count)]


def _residual_block() -> FileGraph:
    """conv → silu → conv → + x, then GroupNorm as the exporter writes it, then relu."""
    shape = (1, 8, 4, 32)
    names = ("x", "a", "b", "c", "d", "r", "n", "s", "t", "u")
    shapes = dict.fromkeys(names, shape) | {"r": (1, 2, 16, 32), "n": (1, 2, 16, 32)}
    operations = [
        _op("conv", "x w", "a"),
        _op("silu", "a", "b"),
        _op("conv", "b w2", "c"),
        _op("add", "x c", "d"),
        _op("reshape", "d", "r"),
        _op("instance_norm", "r", "n"),
        _op("reshape", "n", "s"),
        _op("batch_norm", "s mean", "t"),
        _op("relu", "t", "u"),
    ]
    weights = {"w": ((8, 8, 3, 3), 1152), "w2": ((8, 8, 3, 3), 432), "mean": ((8,), 16)}
    return _graph(operations, shapes, weights)


def test_what_follows_element_by_element_joins_its_kernel() -> None:
    kernels = core_ml_kernels(_residual_block())
    size = 8 * 4 * 32 * 2
    assert [kernel.category for kernel in kernels] == ["conv", "conv", "norm"]
    assert [kernel.operations for kernel in kernels] == [(0, 1), (2, 3), (5, 7, 8)]
    assert [kernel.read_bytes for kernel in kernels] == [size, 2 * size, 2 * size]  # the residual; a norm reads twice
    assert [kernel.write_bytes for kernel in kernels] == [size, size, size]
    assert [kernel.weight_bytes for kernel in kernels] == [1152, 432, 16]  # the second weight is stored compressed
    assert kernels[0].macs == 8 * 4 * 32 * 8 * 9


def test_a_value_that_others_need_is_written() -> None:
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys("xabc", (1, 4, 4, 32))
    operations = [_op("conv", "x w", "a"), _op("relu", "a", "b"), _op("add", "a b", "c")]
    kernels = core_ml_kernels(_graph(operations, shapes, {"w": ((4, 4, 1, 1), 32)}))
    # relu cannot join, as the sum needs its input too; the sum joins relu and reads the other operand again
    assert [kernel.operations for kernel in kernels] == [(0,), (1, 2)]
    assert kernels[1].read_bytes == 2 * 4 * 4 * 32 * 2


@pytest.mark.parametrize(
    ("operation", "shapes", "launched"),
    [
        (_op("reshape", "x", "y"), {"x": (2, 32, 10, 64), "y": (2, 320, 64)}, 0),
        (_op("reshape", "x", "y"), {"x": (2, 77, 64), "y": (2, 77, 8, 8)}, 1),
        (_op("squeeze", "x", "y"), {"x": (2, 4, 1, 64), "y": (2, 4, 64)}, 0),
        (_op("expand_dims", "x", "y"), {"x": (2, 4), "y": (2, 4, 1)}, 1),
        (_op("transpose", "x", "y"), {"x": (2, 4), "y": (4, 2)}, 1),
    ],
)
def test_a_view_keeps_the_innermost_axis(
    operation: Operation, shapes: dict[str, tuple[int, ...]], launched: int
) -> None:
    assert len(core_ml_kernels(_graph([operation], shapes))) == launched


def _only(kernels: tuple[Kernel, ...]) -> Kernel:
    assert len(kernels) == 1
    return kernels[0]


def test_rows_are_padded_on_the_neural_engine_only() -> None:
    graph = _graph([_op("softmax", "x", "y")], {"x": (2, 8, 7, 7), "y": (2, 8, 7, 7)})
    assert _only(core_ml_kernels(graph)).read_bytes == 2 * 8 * 7 * 64
    assert _only(core_ml_kernels(graph, "gpu")).read_bytes == 2 * 8 * 7 * 7 * 2


def test_a_table_is_not_read_whole() -> None:
    graph = _graph([_op("gather", "w i", "y")], {"i": (1, 77), "y": (1, 77, 768)}, {"w": ((49408, 768), 75890688)})
    kernel = _only(core_ml_kernels(graph, "gpu"))
    assert kernel.weight_bytes == kernel.write_bytes == 77 * 768 * 2


def test_what_the_lint_objects_to_is_marked() -> None:
    operations = [_op("gather", "w i", "a"), _op("add", "a a", "b"), _op("cast", "b", "c"), _op("sin", "c", "d")]
    shapes = {"i": (1, 77), "a": (1, 77, 64), "b": (1, 77, 64), "c": (1, 77, 64), "d": (1, 77, 64)}
    graph = _graph(operations, shapes, {"w": ((100, 64), 12800)}, {"c": "float32", "d": "float32"})
    assert off_neural_engine(graph) == {0: "off-neural-engine", 3: "float32"}
    notes = {kernel.operations: kernel.note for kernel in core_ml_kernels(graph)}
    assert notes == {
        (0,): "predicted off the Neural Engine: off-neural-engine",
        (1, 2, 3): "predicted off the Neural Engine: float32",
    }
    assert not any(kernel.note for kernel in core_ml_kernels(graph, "gpu"))


def test_lint_and_predictor_say_the_same_of_a_package(tmp_path: Path) -> None:
    import coremltools as ct
    from coremltools.converters.mil import Builder

    mb: Any = Builder

    @mb.program(input_specs=[mb.TensorSpec((1, 4, 32, 32))], opset_version=ct.target.iOS17)
    def program(x: Any) -> Any:
        dilated = mb.conv(x=x, weight=np.ones((4, 4, 3, 3), np.float32), dilations=[2, 2], pad_type="same")
        pooled = mb.avg_pool(x=dilated, kernel_sizes=[14, 14], strides=[1, 1], pad_type="valid")
        doubled = mb.upsample_nearest_neighbor(x=mb.sin(x=pooled), scale_factor_height=2.0, scale_factor_width=2.0)
        grown = mb.upsample_nearest_neighbor(x=doubled, scale_factor_height=4.0, scale_factor_width=4.0)
        five = mb.exp(x=mb.reshape(x=grown, shape=[1, 2, 2, 152, 152]))
        return mb.gather(x=five, indices=np.array([1, 0, 1], np.int32), axis=1)

    path = tmp_path / "many.mlpackage"
    ct.convert(program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS17).save(str(path))  # pyright: ignore
    _, function = read_program(path)
    computed = [operation for operation in function.operations if operation.type != "const"]
    named = named_constants(function.operations)
    rules = [[o.rule for o in objections(operation, function.ios, None, named)] for operation in computed]
    said = {index: ", ".join(dict.fromkeys(broken)) for index, broken in enumerate(rules) if broken}
    assert off_neural_engine(read_graph(path)) == said
    kinds = {computed[index].type: broken for index, broken in said.items()}
    assert {"conv", "avg_pool", "upsample_nearest_neighbor", "gather", "exp", "reshape", "cast"} == set(kinds)
    assert lint_file(path).rules()["off-neural-engine"] == 4  # of the upsamplings, only the one by four
