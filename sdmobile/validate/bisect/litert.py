"""Looks into a saved `.tflite` file, and cuts parts out of it with the bytes that they have there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.errors import UnsupportedError
from sdmobile.formats.tflite.reader import read_model
from sdmobile.formats.tflite.write import SIGNATURE, cut, input_name
from sdmobile.validate.bisect.graph import ExportedGraph, FileOp, Piece

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.formats.bundle.contracts import Contract
    from sdmobile.formats.tflite.model import Graph, Node, Tensor
    from sdmobile.validate.bisect.graph import Arrays, ModuleNames

_DEQUANTIZE = "DEQUANTIZE"
_FLOATS = ("FLOAT32", "FLOAT16")


class LiteRTGraph(ExportedGraph):
    """The subgraph of a file's one signature; values are named by the tensor's number and name.

    Args:
        path: the `.tflite` file.
        contract: names of inputs and output.
        modules: the checkpoint's modules.

    Raises:
        UnsupportedError: the file keeps weights behind the flatbuffer, or has no such signature.
    """

    def __init__(self, path: Path, contract: Contract, modules: ModuleNames) -> None:
        model = read_model(path)
        if model.weights_behind:
            raise UnsupportedError("a file that is bisected has its weights inside the flatbuffer", path.name)
        signature = next((own for own in model.signatures if own.key == contract.signature), None)
        if signature is None:
            told = f"{path.name}: {contract.signature}"
            raise UnsupportedError("a file that is bisected has the signature of its contract", told)
        self._path, self._index, self._graph = path, signature.graph, model.graphs[signature.graph]
        self._constants = _constant_tensors(self._graph)
        ops = [
            self._file_op(node, modules) for node in self._graph.nodes if node.outputs[0].index not in self._constants
        ]
        self._feeds = {name: _name(self._graph.tensors[index]) for name, index in signature.inputs.items()}
        output = next(iter(signature.outputs.values()))
        inputs = [self._feeds[spec.name] for spec in contract.inputs]
        super().__init__(ops, inputs, _name(self._graph.tensors[output]))

    def values(self, inputs: Arrays) -> Iterator[tuple[str, NDArray[Any]]]:
        """Runs the file without delegates and yields every floating-point value; the interpreter holds all of them.

        Args:
            inputs: by the names of the signature.
        """
        piece = Piece(self.ops, self.inputs, self.output)
        computed = self._run(self._cut(piece), {self._feeds[name]: array for name, array in inputs.items()}, piece)
        return ((name, array) for name, array in computed if array.dtype in (np.float32, np.float16))

    def write(self, piece: Piece, folder: Path) -> Path:
        """Writes a part as `subgraph.tflite`."""
        path = folder / "subgraph.tflite"
        path.write_bytes(self._cut(piece))
        return path

    def run_part(self, file: Path, piece: Piece, inputs: Arrays) -> NDArray[Any]:
        """Runs a part on the CPU without delegates."""
        return dict(self._run(file.read_bytes(), inputs, piece, {piece.output}))[piece.output]

    def constants(self, op: FileOp) -> dict[str, NDArray[Any]]:
        """Returns the floating-point constants that an operation takes."""
        node = next(own for own in self._graph.nodes if _name(own.outputs[0]) == op.outputs[0])
        stored = {_name(tensor): self._stored(tensor) for tensor in node.inputs if tensor is not None}
        holders = {name: holder for name, holder in stored.items() if holder is not None and holder.dtype in _FLOATS}
        arrays = {name: holder.values() for name, holder in holders.items()}
        return {name: array for name, array in arrays.items() if array is not None}

    def _stored(self, tensor: Tensor) -> Tensor | None:
        """Returns the tensor that holds the data of a constant one."""
        return self._constants.get(tensor.index)

    def _file_op(self, node: Node, modules: ModuleNames) -> FileOp:
        operands = [tensor for tensor in node.inputs if tensor is not None]
        taken = tuple(_name(tensor) for tensor in operands if self._stored(tensor) is None)
        weights = [tensor for tensor in operands if self._stored(tensor) is not None and tensor.elements > 1]
        names = tuple(_name(tensor) for tensor in node.outputs)
        places = [tensor.name for tensor in (node.outputs[0], *weights)]  # an output has the signature's name
        module = next(filter(None, map(modules.of_location, places)), None)
        return FileOp(names[0], node.op, taken, names, module)

    def _cut(self, piece: Piece) -> bytes:
        """Returns a file whose only computation is a part, with the operators that turn its constants into float32."""
        number = {_name(tensor): tensor.index for tensor in self._graph.tensors}
        first = {number[op.outputs[0]] for op in piece.ops}
        own = [node for node in self._graph.nodes if node.outputs[0].index in first]
        widened = {
            tensor.index for node in own for tensor in node.inputs if tensor is not None
        } & self._constants.keys()
        operators = [node.index for node in self._graph.nodes if node.outputs[0].index in first | widened]
        return cut(self._path, self._index, operators, [number[name] for name in piece.inputs], number[piece.output])

    def _run(
        self, content: bytes, inputs: Arrays, piece: Piece, wanted: set[str] | None = None
    ) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yields the values of a part, in its order; all of them, or the wanted ones."""
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        interpreter = Interpreter(
            model_content=content,
            num_threads=1,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=wanted is None,
        )
        runner = interpreter.get_signature_runner(SIGNATURE)
        runner(**{input_name(place): inputs[name] for place, name in enumerate(piece.inputs)})
        details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
        number = {_name(tensor): tensor.index for tensor in self._graph.tensors}
        for name in (name for op in piece.ops for name in op.outputs if wanted is None or name in wanted):
            if number[name] in details:
                yield name, np.array(interpreter.get_tensor(number[name]))


def _name(tensor: Tensor) -> str:
    return f"{tensor.index}: {tensor.name}"


def _constant_tensors(graph: Graph) -> dict[int, Tensor]:
    """Returns the tensors that are constant, with the tensor that holds the data: itself, or its float16 original."""
    computed = {tensor.index for node in graph.nodes for tensor in node.outputs} | set(graph.inputs)
    holders = {tensor.index: tensor for tensor in graph.tensors if tensor.constant and tensor.index not in computed}
    for node in graph.nodes:
        source = node.inputs[0] if node.op == _DEQUANTIZE else None
        if source is not None and source.index in holders:
            holders[node.outputs[0].index] = source
    return holders
