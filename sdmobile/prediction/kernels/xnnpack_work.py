"""How much arithmetic XNNPACK's kernels do for one operator, counted for vectors of 16 floats.

A matrix product or a convolution is a product of tiles: 7 rows (positions) by 16 or 32 columns (output channels), both
rounded up. Everything else is counted in vector instructions per element, a load or a store being one: XNNPACK's
kernels read each input once, write each output once, and in between evaluate a polynomial or a rational function whose
length does not depend on the computer. Tile and vector are those of AVX-512; a computer
with shorter vectors executes more instructions of the same kinds, which its fitted efficiency holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sdmobile.device_profiles.runtime_rules import tflite_operators as operators
from sdmobile.device_profiles.runtime_rules.kernel import Category
from sdmobile.device_profiles.runtime_rules.tflite_operators import kinds, words
from sdmobile.formats.graph.graph import Operation, Tensor
from sdmobile.formats.graph.tflite import CONSTANT_INPUTS

ROWS, LANES = 7, 16
# Columns of a tile by own measurement of widths from 16 to 320: the time of a convolution and of a product of computed
# values rises in steps of 32 columns (a convolution of up to 16 has tiles of 16), that of a 1x1 convolution or a fully
# connected layer in steps of 16.
_NARROW, _WIDE = 16, 32
# Instructions that a run of neighbours costs before its first element: own measurement, 1.5 ns and 4 ns.
_RUN, _RUN_OF_MAXIMUM = 35, 90
_SINGLE_ROW = 3  # rows' worth of a product of one row, whose weights are loaded for one use each
_ROW_OF_SOFTMAX = 70  # elements' worth of a row's three passes: own measurement, 21 ns
# XNNPACK's depthwise kernels have room for these numbers of taps; more taps run in a slow kernel, 9 times as long per
# tap by own measurement (2.1 to 2.6 GMAC/s against 21).
_DEPTHWISE_TAPS, _SLOW_DEPTHWISE = (3, 4, 9, 25), 9
# Instructions per element beyond those of a load and a store: own measurement of one operator each.
_FUNCTIONS = {
    "logistic": 2.0,
    "tanh": 2.6,
    "gelu": 4.3,
    "exp": 2.2,
    "sin": 3.3,
    "cos": 3.3,
    "sqrt": 1.0,
    "rsqrt": 0.3,
    "div": 0.3,
    "elu": 2.2,
    "log": 2.2,
    "pow": 8.0,
}
_FREE = kinds(operators.VIEWS)
_REDUCTIONS = kinds(operators.REDUCTIONS, operators.ARGUMENTS)
_COPIES = kinds(operators.SLICES, operators.SPLITS, operators.PACKS, words("CONCATENATION PAD PADV2"))
_GATHERS = kinds(operators.LOOK_UPS)
_POOLS = kinds(operators.POOLS)
_RESIZE = {"resize_nearest_neighbor": 1, "resize_bilinear": 3}


@dataclass(frozen=True)
class Work:
    """The arithmetic of one operator.

    Args:
        macs: multiply-accumulates or vector instructions times lanes, as executed.
        operator_macs: multiply-accumulates as the operator is defined.
        panels: bytes of the tiles that a product reads again and again; 0 for what is no product.
        panel: bytes of the pair of tiles that have to stay in the second-level cache.
    """

    category: Category
    macs: int
    operator_macs: int = 0
    panels: int = 0
    panel: int = 0
    note: str = ""


def work_of(operation: Operation, tensors: Mapping[str, Tensor]) -> Work | None:
    """Returns the arithmetic of an operator; None for one that moves nothing."""
    kind = operation.kind
    inputs = [tensors[name] for name in operation.inputs]
    result = tensors[operation.outputs[0]] if operation.outputs else Tensor("", (0,), "float32", False)
    if kind in _FREE or not operation.outputs:
        return None
    if kind == "conv_2d":
        return _convolution(inputs, result)
    if kind == "transpose_conv":
        weights, image = inputs[1], inputs[2]  # the first is the shape of the result
        channels = image.shape[-1]
        return _product("conv", 1, image.elements // channels, channels, weights.elements // channels)
    if kind == "depthwise_conv_2d":
        return _depthwise(inputs[1], result)
    if kind == "fully_connected":
        columns, inner = inputs[1].shape[0], inputs[1].shape[-1]
        return _product("matmul", 1, result.elements // max(1, columns), inner, columns)
    if kind == "batch_matmul":
        rows, columns = result.shape[-2:]
        inner = inputs[0].shape[-2 if operation.attributes.get("adjX") else -1]
        return _product("matmul", math.prod(result.shape[:-2]), rows, inner, columns, _WIDE)
    if kind == "softmax":
        rows = result.elements // max(1, result.shape[-1])
        return Work("softmax", rows * (_vectors(result.shape[-1]) + _ROW_OF_SOFTMAX))
    if kind in _REDUCTIONS:
        return _reduction(operation, inputs[0])
    if kind in _RESIZE:
        return Work("resize", _RESIZE[kind] * result.elements, note=kind)
    if kind in _POOLS:
        options = operation.attributes
        window = int(options.get("filterHeight", 1)) * int(options.get("filterWidth", 1))
        return Work("reduce", result.elements * (window + 1), note=kind)
    if kind in _GATHERS:
        return Work("gather", 2 * result.elements, note=kind)
    if kind == "transpose":
        return _transpose(operation, inputs[0])
    if kind in _COPIES:
        moved = sum(tensors[name].elements for name in operation.outputs)
        return Work("copy", 2 * moved, note=kind)
    return _elementwise(operation, inputs, result)


def _vectors(count: int) -> int:
    """Returns a number of elements rounded up to whole vectors."""
    return -(-count // LANES) * LANES


def _product(
    category: Category, batch: int, rows: int, inner: int, columns: int, tile: int = _NARROW, note: str = ""
) -> Work:
    """Returns a matrix product (rows, inner) x (inner, columns), `batch` times, in tiles of so many columns."""
    tiles = batch * -(-rows // ROWS) * -(-columns // tile)
    panel = 4 * inner * (ROWS + tile)
    return Work(
        category,
        tiles * (_SINGLE_ROW if rows == 1 else ROWS) * tile * inner,
        batch * rows * inner * columns,
        panels=tiles * panel,
        panel=panel,
        note=note or f"{rows} x {inner} x {columns}",
    )


def _convolution(inputs: Sequence[Tensor], result: Tensor) -> Work:
    weights = inputs[1]
    out_channels, taps = weights.shape[0], math.prod(weights.shape[1:-1])
    positions, groups = result.elements // out_channels, max(1, inputs[0].shape[-1] // weights.shape[-1])
    if groups == inputs[0].shape[-1] and groups > 1:
        return _depthwise(weights, result)
    columns, inner = out_channels // groups, taps * weights.shape[-1]
    tile = _WIDE if taps > 1 and columns > _NARROW else _NARROW
    note = f"{positions} x {inner} x {columns}" + (f", {groups} groups" if groups > 1 else "")
    return _product("matmul" if taps == 1 else "conv", groups, positions, inner, columns, tile, note)


def _depthwise(weights: Tensor, result: Tensor) -> Work:
    taps = weights.shape[1] * weights.shape[2]
    room = next((size for size in _DEPTHWISE_TAPS if size >= taps), _SLOW_DEPTHWISE * taps)
    positions = result.elements // result.shape[-1]
    note = f"{weights.shape[1]}x{weights.shape[2]}" + (", more taps than XNNPACK's kernels have" * (taps > 25))
    return Work("depthwise", positions * _vectors(result.shape[-1]) * room, result.elements * taps, note=note)


def _runs(flags: Sequence[object], shape: Sequence[int]) -> tuple[int, int]:
    """Returns the number and the length of the runs of neighbours that one inner loop takes.

    Args:
        flags: what is done along each axis; neighbouring axes of the same kind are one axis.
        shape: extents.
    """
    total, run = math.prod(shape), 1
    kept = [(flag, size) for flag, size in zip(flags, shape, strict=True) if size > 1]
    for flag, size in reversed(kept):
        if flag != kept[-1][0]:
            break
        run *= size
    return total // max(1, run), run


def _along_runs(instructions: float, runs: int, length: int, start: int = _RUN) -> int:
    return round(runs * (start + instructions * _vectors(length)))


def _reduction(operation: Operation, image: Tensor) -> Work:
    axes = operation.attributes.get(CONSTANT_INPUTS, {}).get("1", [len(image.shape) - 1])
    reduced = {axis % len(image.shape) for axis in axes}
    runs, length = _runs([axis in reduced for axis in range(len(image.shape))], image.shape)
    start = _RUN_OF_MAXIMUM if operation.kind in ("reduce_max", "reduce_min") else _RUN
    return Work("reduce", _along_runs(1.0, runs, length, start), note=f"{operation.kind} over runs of {length}")


def _transpose(operation: Operation, image: Tensor) -> Work:
    order = operation.attributes.get(CONSTANT_INPUTS, {}).get("1", list(range(len(image.shape))))
    moving = [axis for axis in order if image.shape[axis] > 1]
    if moving == sorted(moving):
        return Work("copy", 2 * image.elements, note="transpose of nothing")
    run = 1
    for axis in reversed(range(len(order))):
        if order[axis] != axis:
            break
        run *= image.shape[axis]
    return Work("copy", (2 if run > 1 else 3) * image.elements, note=f"transpose {order} of {list(image.shape)}")


def _elementwise(operation: Operation, inputs: Sequence[Tensor], result: Tensor) -> Work:
    """Counts a load per input of full size, a store, and the function's own instructions."""
    rank = len(result.shape)
    shapes = [(1,) * (rank - len(t.shape)) + t.shape for t in inputs if len(t.shape) <= rank and t.elements > 1]
    flags = [tuple(shape[axis] == 1 for shape in shapes) for axis in range(rank)]
    runs, length = _runs(flags, result.shape)
    loads = max(1, sum(math.prod(shape) == result.elements for shape in shapes))
    own = _FUNCTIONS.get(operation.kind, 0.0)
    return Work("elementwise", _along_runs(loads + 1 + own, runs, length), note=operation.kind)
