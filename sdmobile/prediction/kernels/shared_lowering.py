"""From the operators of a file to the nodes of Google's GPU engines, as far as both engines do the same.

Sources: google-ai-edge/LiteRT@f674577 `tflite/delegates/gpu/common/selectors/operation_selector.cc` and
`transformations/`; google-ai-edge/ml-drift `ml_drift/common/selectors/operation_selector.cc`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from sdmobile.device_profiles.runtime_rules.kernel import Category
from sdmobile.device_profiles.runtime_rules.tflite_operators import CONVOLUTIONS, POOLS, kinds
from sdmobile.device_profiles.runtime_rules.winograd import Gpu, RuntimeRule
from sdmobile.formats.graph.graph import FileGraph, Operation, Tensor
from sdmobile.formats.graph.tflite import CONSTANT_INPUTS
from sdmobile.formats.tflite.gpu_bytes import padded
from sdmobile.prediction.kernels.conv_generic import FULL_WAVE, HALF_WAVE
from sdmobile.prediction.kernels.shared_nodes import Draft, Node

Lower = Callable[["Lowering", int, Operation], None]
_COMMUTATIVE = frozenset({"add", "mul"})
_STORED_BYTES = {"int8": 1.0, "uint8": 1.0, "int4": 0.5, "uint4": 0.5, "int2": 0.25}
_PADDED_BY = kinds(CONVOLUTIONS, POOLS)


class Lowering:
    """A graph on its way to nodes.

    Args:
        graph: the file.
        table: what each kind of operation becomes.
        winograd: when the engine takes Winograd's method; None for never.
        gpu: the family of GPUs.
        element_bytes: size of a float in the run.
        keeps_integers: whether integer weights of FULLY_CONNECTED stay integers in memory.
        half_sums: whether products are added up in float16.
    """

    def __init__(
        self,
        graph: FileGraph,
        table: Mapping[str, Lower],
        winograd: RuntimeRule | None,
        gpu: Gpu,
        element_bytes: int,
        keeps_integers: bool,
        half_sums: bool = True,
    ) -> None:
        self.graph = graph
        self.winograd = winograd
        self.gpu = gpu
        self.wave = HALF_WAVE if half_sums else FULL_WAVE
        self.draft = Draft(element_bytes)
        self._table = table
        self._keeps_integers = keeps_integers
        self._written: dict[str, int] = {}
        self._uses = Counter(name for operation in graph.operations for name in operation.inputs)
        self._users = {name: operation for operation in graph.operations for name in operation.inputs}

    def run(self) -> Draft:
        """Returns the nodes of the whole graph."""
        for tensor in self.graph.tensors.values():
            self.draft.declare(tensor)
        for index, operation in enumerate(self.graph.operations):
            self._table.get(operation.kind, unknown)(self, index, operation)
        self.draft.inputs, self.draft.outputs = self.graph.inputs, self.graph.outputs
        return self.draft

    def add(self, node: Node) -> Node:
        """Adds a node and remembers when its results were written."""
        self._written.update(dict.fromkeys(node.outputs, len(self.draft.nodes)))
        return self.draft.add(node)

    def tensor(self, name: str) -> Tensor:
        """Returns a tensor of the file."""
        return self.graph.tensors[name]

    def runtime(self, operation: Operation) -> list[str]:
        """Returns the inputs that are computed."""
        return [name for name in operation.inputs if not self.tensor(name).constant]

    def constant_bytes(self, operation: Operation) -> int:
        """Returns the bytes of the float constants of an elementwise operation."""
        constants = (self.tensor(name) for name in operation.inputs if self.tensor(name).constant)
        return sum(self.draft.bytes(t.name) for t in constants if t.dtype.startswith("float") and t.elements > 1)

    def weight_bytes(self, weights: Tensor) -> int:
        """Returns the bytes of weights (O, ..., I) in memory, both channels padded to fours."""
        out_channels, in_channels = weights.shape[0], weights.shape[-1]
        taps = weights.elements // max(1, out_channels * in_channels)
        stays = self._keeps_integers and len(weights.shape) == 2
        size = _STORED_BYTES.get(weights.dtype, self.draft.element_bytes) if stays else self.draft.element_bytes
        return round(taps * padded(out_channels) * padded(in_channels) * size)

    def bias_bytes(self, operation: Operation) -> int:
        """Returns the bytes of a bias, the third input."""
        if len(operation.inputs) < 3 or not self.tensor(operation.inputs[2]).constant:
            return 0
        return padded(self.tensor(operation.inputs[2]).elements) * self.draft.element_bytes

    def written(self, name: str) -> int:
        """Returns when a value was last written, -1 for an input of the graph."""
        return self._written.get(self.draft.resolve(name), -1)

    def only_user(self, name: str) -> Operation | None:
        """Returns the one operation that reads a value, None if there are none or several."""
        return self._users[name] if self._uses[name] == 1 and name not in self.graph.outputs else None

    def like(self, index: int, operation: Operation, category: Category, **fields: object) -> Node:
        """Adds a node from the computed inputs of an operation to its outputs."""
        inputs = self.runtime(operation)
        return self.add(Node(category, operation.name, (index,), inputs, list(operation.outputs), **fields))  # pyright: ignore


def elementwise(low: Lowering, index: int, operation: Operation) -> None:
    """An operator per element: linkable unless its first input has to be broadcast.

    The input written last is first in sums and products of equal shapes, for that is the kernel to link to
    (IsAssociativeLinkableOp); a broadcast one is second.
    """
    inputs = low.runtime(operation)
    result = low.draft.shape(operation.outputs[0])
    if operation.kind in _COMMUTATIVE and len(inputs) == 2:
        inputs.sort(key=lambda name: (low.draft.shape(name) == result, low.written(name)), reverse=True)
    low.add(
        Node(
            "elementwise",
            operation.name,
            (index,),
            inputs,
            list(operation.outputs),
            weight_bytes=low.constant_bytes(operation),
            linkable=bool(inputs) and low.draft.shape(inputs[0]) == result and len(inputs) <= 2,
            note=operation.kind,
        )
    )


def alone(category: Category, passes: int = 1) -> Lower:
    """Returns a lowering to one kernel that reads all inputs as often as it has passes, and writes all outputs."""

    def lower(low: Lowering, index: int, operation: Operation) -> None:
        low.like(index, operation, category, passes=passes, note=operation.kind)

    return lower


def reorder(low: Lowering, index: int, operation: Operation) -> None:
    """RESHAPE and TRANSPOSE: a copy that reads element by element, or nothing where the engine's shape stays."""
    source, result = operation.inputs[0], operation.outputs[0]
    same = low.draft.shape(source) == low.draft.shape(result)
    order = operation.attributes.get(CONSTANT_INPUTS, {}).get("1")
    moves = operation.kind == "transpose" and order != sorted(order or [])
    if same and not moves and result not in low.graph.outputs and not low.tensor(source).constant:
        low.draft.alias(result, source)
        return
    low.like(index, operation, "reorder", reorder=True, note=operation.kind)


def part(category: Category) -> Lower:
    """Returns a lowering to a kernel that reads no more than it writes: slices and look-ups."""

    def lower(low: Lowering, index: int, operation: Operation) -> None:
        size = sum(low.draft.bytes(name) for name in operation.outputs)
        low.like(index, operation, category, reads=size, note=operation.kind)

    return lower


def pad(low: Lowering, index: int, operation: Operation) -> None:
    """PAD: part of the convolution or pooling behind it if only height and width grow, else a copy."""
    sizes = operation.attributes.get(CONSTANT_INPUTS, {}).get("1")
    user = low.only_user(operation.outputs[0])
    inner = sizes is not None and len(sizes) == 8 and not any(sizes[:2] + sizes[6:])
    if inner and user is not None and user.kind in _PADDED_BY and user.inputs[0] == operation.outputs[0]:
        low.draft.alias(operation.outputs[0], operation.inputs[0])
        return
    low.like(index, operation, "copy", note="pad")


def pooling(low: Lowering, index: int, operation: Operation) -> None:
    """AVERAGE_POOL_2D and MAX_POOL_2D: one kernel."""
    low.like(index, operation, "reduce", note=operation.kind)


def unknown(low: Lowering, index: int, operation: Operation) -> None:
    """An operator without a rule here: one pass over its inputs and outputs."""
    low.like(index, operation, "elementwise", note=f"{operation.kind}: no rule, counted as one pass")
