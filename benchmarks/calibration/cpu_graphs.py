"""The microbenchmarks of the CPU: graphs of one operator, of sizes from the caches to the memory.

None is a layer of a model that the calibration is tried on by intent; they cover the shapes that diffusion and vision
models are made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sdmobile.formats.graph import FileGraph, Operation, Tensor
from sdmobile.formats.graph.tflite import CONSTANT_INPUTS

Shape = tuple[int, ...]


class GraphDraft:
    """A graph under construction; methods return names of tensors."""

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}
        self._operations: list[Operation] = []
        self._inputs: list[str] = []

    def input(self, *shape: int, dtype: str = "float32") -> str:
        """Adds an input."""
        self._inputs.append(self._tensor(shape, dtype, False))
        return self._inputs[-1]

    def weights(self, *shape: int, dtype: str = "float32") -> str:
        """Adds weights."""
        return self._tensor(shape, dtype, True)

    def shape(self, name: str) -> Shape:
        """Returns the shape of a tensor."""
        return self._tensors[name].shape

    def op(
        self, kind: str, inputs: Sequence[str], shape: Shape, integers: Sequence[Sequence[Any]] = (), **options: Any
    ) -> str:
        """Adds an operator of one result.

        Args:
            integers: further inputs, such as axes; nested ones have two dimensions.
            options: by the schema's names.
        """
        flat: dict[str, list[int]] = {}
        names = list(inputs)
        for values in integers:
            rows = [list(value) if isinstance(value, tuple | list) else [value] for value in values]
            nested = bool(values) and isinstance(values[0], tuple | list)
            names.append(self._tensor((len(rows), len(rows[0])) if nested else (len(rows),), "int32", True))
            flat[str(len(names) - 1)] = [value for row in rows for value in row]
        attributes = {**options, **({CONSTANT_INPUTS: flat} if flat else {})}
        result = self._tensor(shape, "float32", False)
        self._operations.append(Operation(kind, "", tuple(names), (result,), attributes))
        return result

    def graph(self, *outputs: str) -> FileGraph:
        """Returns the graph with these outputs."""
        return FileGraph("tflite", self._tensors, tuple(self._operations), tuple(self._inputs), outputs, 0)

    def _tensor(self, shape: Shape, dtype: str, constant: bool) -> str:
        name = f"t{len(self._tensors)}"
        self._tensors[name] = Tensor(name, tuple(shape), dtype, constant, 0)
        return name


def benchmarks() -> dict[str, FileGraph]:
    """Returns the microbenchmarks by name."""
    found: dict[str, FileGraph] = {}
    for size, given, made, kernel, stride in _CONVOLUTIONS:
        found[f"conv {kernel}x{kernel}/{stride} {size}x{size} {given}-{made}"] = _conv(
            size, given, made, kernel, stride
        )
    for size, channels, kernel, stride in _DEPTHWISE:
        found[f"depthwise {kernel}x{kernel}/{stride} {size}x{size} {channels}"] = _depthwise(
            size, channels, kernel, stride
        )
    for rows, inner, columns in _FULLY_CONNECTED:
        found[f"fully connected {rows}x{inner}x{columns}"] = _fully_connected(rows, inner, columns)
    for batch, rows, inner, columns, transposed in _BATCH_MATMUL:
        name = f"batch matmul {batch}x{rows}x{inner}x{columns}{' transposed' * transposed}"
        found[name] = _batch_matmul(batch, rows, inner, columns, transposed)
    for kind, shape, *other in _ELEMENTWISE:
        found[f"{kind} {' '.join(map(str, (shape, *other)))}"] = _one(kind, [shape, *other], shape)
    for shape in _SOFTMAX:
        found[f"softmax {shape}"] = _one("softmax", [shape], shape, beta=1.0)
    for kind, shape, axes in _REDUCTIONS:
        result = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
        found[f"{kind} {shape} over {axes}"] = _one(kind, [shape], result, [axes], keepDims=True)
    for shape, order in _TRANSPOSES:
        found[f"transpose {shape} by {order}"] = _one("transpose", [shape], tuple(shape[i] for i in order), [order])
    return {**found, **_others()}


_CONVOLUTIONS = (  # size, input and output channels, kernel, stride
    (64, 256, 256, 3, 1),
    (48, 512, 256, 3, 1),
    (24, 720, 720, 3, 1),
    (16, 1152, 576, 3, 1),
    (16, 1536, 768, 3, 1),
    (12, 2048, 512, 3, 1),
    (60, 48, 48, 3, 1),
    (15, 200, 200, 3, 1),
    (96, 40, 40, 3, 1),
    (32, 384, 384, 3, 2),
    (64, 4, 256, 3, 1),
    (192, 3, 24, 3, 2),
    (40, 288, 288, 1, 1),
    (60, 20, 120, 1, 1),
    (8, 800, 144, 1, 1),
)
_DEPTHWISE = (  # size, channels, kernel, stride
    (96, 40, 3, 1),
    (60, 120, 3, 1),
    (15, 400, 3, 1),
    (8, 800, 3, 1),
    (60, 120, 3, 2),
    (30, 160, 5, 1),
    (30, 160, 5, 2),
    (16, 256, 7, 1),
    (30, 80, 7, 1),
)
_FULLY_CONNECTED = (  # rows, inner, columns
    (96, 640, 2560),
    (96, 2560, 640),
    (2048, 256, 256),
    (512, 1024, 1024),
    (60, 1024, 1024),
    (2, 1024, 1024),
    (1, 3072, 3072),
    (256, 256, 256),
    (3000, 48, 24),
)
_BATCH_MATMUL = (  # batch, rows, inner, columns, right operand transposed
    (6, 1024, 48, 1024, True),
    (6, 1024, 1024, 48, False),
    (8, 80, 64, 80, True),
    (8, 80, 80, 64, False),
    (4, 256, 128, 256, True),
    (1, 1200, 384, 1200, True),
)
_ELEMENTWISE: tuple[tuple[Any, ...], ...] = (
    ("add", (1, 16, 16, 64), (1, 16, 16, 64)),
    ("add", (1, 60, 60, 256), (1, 60, 60, 256)),
    ("add", (1, 256, 256, 128), (1, 256, 256, 128)),
    ("mul", (1, 60, 60, 256), (256,)),
    ("mul", (1, 60, 60, 256), (1, 60, 60, 1)),
    ("mul", (1, 3600, 32, 12), (1, 1, 32, 1)),
    ("mul", (1, 3600, 32, 24), (1, 1, 32, 1)),
    ("sub", (1, 60, 60, 256), (1, 60, 60, 256)),
    ("div", (1, 60, 60, 256), (1, 60, 60, 256)),
    ("relu", (1, 60, 60, 256)),
    ("abs", (1, 256, 256, 128)),
    ("hard_swish", (1, 60, 60, 256)),
    ("logistic", (1, 60, 60, 256)),
    ("logistic", (1, 256, 256, 128)),
    ("gelu", (1, 60, 60, 256)),
    ("tanh", (1, 60, 60, 256)),
    ("rsqrt", (1, 60, 60, 256)),
)
_SOFTMAX = ((8, 512, 512), (2, 2048, 2048), (8, 2048, 77), (8, 200, 50))
_REDUCTIONS = (
    ("mean", (1, 60, 60, 256), (1, 2)),
    ("mean", (1, 3600, 256), (2,)),
    ("mean", (1, 3600, 32, 12), (1, 3)),
    ("mean", (1, 3600, 32, 24), (1, 3)),
    ("mean", (1, 256, 256, 128), (3,)),
    ("reduce_max", (1, 3600, 32, 12), (1, 3)),
    ("reduce_max", (1, 3600, 32, 24), (1, 3)),
)
_TRANSPOSES = (
    ((1, 2048, 6, 48), (0, 2, 1, 3)),
    ((1, 6, 2048, 48), (0, 2, 1, 3)),
    ((1, 96, 10, 64), (0, 2, 1, 3)),
    ((1, 60, 60, 256), (0, 3, 1, 2)),
    ((1, 256, 20, 20), (0, 2, 3, 1)),
)


def _conv(size: int, given: int, made: int, kernel: int, stride: int) -> FileGraph:
    draft, out = GraphDraft(), -(-size // stride)
    inputs = [draft.input(1, size, size, given), draft.weights(made, kernel, kernel, given), draft.weights(made)]
    return draft.graph(draft.op("conv_2d", inputs, (1, out, out, made), **_window(stride)))


def _depthwise(size: int, channels: int, kernel: int, stride: int) -> FileGraph:
    draft, out = GraphDraft(), -(-size // stride)
    inputs = [draft.input(1, size, size, channels), draft.weights(1, kernel, kernel, channels), draft.weights(channels)]
    options = {**_window(stride), "depthMultiplier": 1}
    return draft.graph(draft.op("depthwise_conv_2d", inputs, (1, out, out, channels), **options))


def _window(stride: int) -> dict[str, Any]:
    return {"padding": 0, "strideH": stride, "strideW": stride, "dilationHFactor": 1, "dilationWFactor": 1}


def _fully_connected(rows: int, inner: int, columns: int) -> FileGraph:
    draft = GraphDraft()
    inputs = [draft.input(rows, inner), draft.weights(columns, inner), draft.weights(columns)]
    return draft.graph(draft.op("fully_connected", inputs, (rows, columns)))


def _batch_matmul(batch: int, rows: int, inner: int, columns: int, transposed: bool) -> FileGraph:
    draft = GraphDraft()
    right = (1, batch, columns, inner) if transposed else (1, batch, inner, columns)
    inputs = [draft.input(1, batch, rows, inner), draft.input(*right)]
    return draft.graph(draft.op("batch_matmul", inputs, (1, batch, rows, columns), adjX=False, adjY=transposed))


def _one(
    kind: str, shapes: Sequence[Shape], result: Shape, integers: Sequence[Sequence[Any]] = (), **options: Any
) -> FileGraph:
    draft = GraphDraft()
    return draft.graph(draft.op(kind, [draft.input(*shape) for shape in shapes], result, integers, **options))


def _others() -> dict[str, FileGraph]:
    """Returns copies, resizes, a look-up, and chains of small operators, whose time is that of starting them."""
    image = (1, 60, 60, 256)
    joined = GraphDraft()
    both = joined.op("concatenation", [joined.input(*image), joined.input(*image)], (1, 60, 60, 512), axis=3)
    table = GraphDraft()
    rows = table.op("gather", [table.weights(8192, 640), table.input(1, 80, dtype="int32")], (1, 80, 640), axis=0)
    return {
        "concatenation of channels": joined.graph(both),
        "slice of channels": _one("slice", [image], (1, 60, 60, 128), [(0, 0, 0, 0), (1, 60, 60, 128)]),
        "pad": _one("pad", [image], (1, 61, 61, 256), [((0, 0), (0, 1), (0, 1), (0, 0))]),
        "resize nearest": _one("resize_nearest_neighbor", [(1, 32, 32, 256)], (1, 64, 64, 256), [(64, 64)]),
        "resize bilinear": _one(
            "resize_bilinear", [(1, 32, 32, 256)], (1, 64, 64, 256), [(64, 64)], halfPixelCenters=True
        ),
        "gather": table.graph(rows),
        "chain of 64 small operators": _chain(32, 64),
        "chain of 256 small operators": _chain(128, 64),
    }


def _chain(pairs: int, channels: int) -> FileGraph:
    draft = GraphDraft()
    value = draft.input(1, channels)
    for _ in range(pairs):
        product = draft.op("fully_connected", [value, draft.weights(channels, channels)], (1, channels))
        value = draft.op("logistic", [product], (1, channels))
    return draft.graph(value)
