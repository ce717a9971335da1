"""Looks into a saved `.tflite` file, and cuts parts out of it with the bytes that they have there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.errors import MissingDependencyError, UnsupportedError
from sdmobile.validate.bisect.graph import ExportedGraph, FileOp, Piece

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.formats.bundle.contracts import Contract
    from sdmobile.validate.bisect.graph import Arrays, ModuleNames

_OUTPUT = "output"
_DEQUANTIZE = "DEQUANTIZE"


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
        self._tools = _tools()
        self._model = self._tools.read_model(str(path))
        if any(buffer.offset > 1 for buffer in self._model.buffers):
            raise UnsupportedError("a file that is bisected has its weights inside the flatbuffer", path.name)
        signature = self._signature(contract.signature, path)
        self._graph = self._model.subgraphs[signature.subgraphIndex]
        self._names = [f"{i}: {_text(tensor.name)}" for i, tensor in enumerate(self._graph.tensors)]
        self._constant = _constant_tensors(self._model, self._graph, self._code)
        ops = [self._file_op(op, modules) for op in self._graph.operators if op.outputs[0] not in self._constant]
        inputs = {_text(item.name): self._names[item.tensorIndex] for item in signature.inputs}
        self._feeds = inputs
        output = next(item.tensorIndex for item in signature.outputs)
        super().__init__(ops, [inputs[spec.name] for spec in contract.inputs], self._names[output])

    def values(self, inputs: Arrays) -> Iterator[tuple[str, NDArray[Any]]]:
        """Runs the file without delegates and yields every floating-point value; the interpreter holds all of them.

        Args:
            inputs: by the names of the signature.
        """
        piece = Piece(self.ops, self.inputs, self.output)
        computed = self._run(self._with(piece), {self._feeds[name]: array for name, array in inputs.items()}, piece)
        return ((name, array) for name, array in computed if array.dtype in (np.float32, np.float16))

    def write(self, piece: Piece, folder: Path) -> Path:
        """Writes a part as `subgraph.tflite`."""
        path = folder / "subgraph.tflite"
        path.write_bytes(self._with(piece))
        return path

    def run_part(self, file: Path, piece: Piece, inputs: Arrays) -> NDArray[Any]:
        """Runs a part on the CPU without delegates."""
        return dict(self._run(file.read_bytes(), inputs, piece, {piece.output}))[piece.output]

    def constants(self, op: FileOp) -> dict[str, NDArray[Any]]:
        """Returns the floating-point constants that an operation takes."""
        operator = next(own for own in self._graph.operators if self._names[own.outputs[0]] == op.outputs[0])
        arrays = {}
        for index in operator.inputs:
            if index in self._constant:
                array = self._array(self._constant[index])
                if array is not None:
                    arrays[self._names[index]] = array
        return arrays

    def _signature(self, name: str, path: Path) -> Any:
        for signature in self._model.signatureDefs or []:
            if _text(signature.signatureKey) == name:
                return signature
        raise UnsupportedError("a file that is bisected has the signature of its contract", f"{path.name}: {name}")

    def _code(self, operator: Any) -> str:
        return self._tools.opcode_to_name(self._model, operator.opcodeIndex)

    def _file_op(self, operator: Any, modules: ModuleNames) -> FileOp:
        taken = [index for index in operator.inputs if index >= 0 and index not in self._constant]
        names = tuple(self._names[index] for index in operator.outputs)
        stored = [i for i in operator.inputs if i in self._constant and math.prod(self._graph.tensors[i].shape) > 1]
        places = [names[0].partition(": ")[2], *(_text(self._graph.tensors[i].name) for i in stored)]
        module = next(filter(None, map(modules.of_location, places)), None)  # an output has the signature's name
        return FileOp(names[0], self._code(operator), tuple(self._names[i] for i in taken), names, module)

    def _array(self, index: int) -> NDArray[Any] | None:
        """Returns the data of a constant tensor of floats."""
        tensor = self._graph.tensors[index]
        dtype = {0: np.float32, 1: np.float16}.get(tensor.type)
        data = self._model.buffers[tensor.buffer].data
        if dtype is None or data is None:
            return None
        return np.asarray(data, np.uint8).view(dtype).reshape(tensor.shape if tensor.shape is not None else ())

    def _with(self, piece: Piece) -> bytes:
        """Returns the file with a part as its only computation; what that does not need is emptied."""
        model = self._tools.read_model_from_bytearray(self._tools.convert_object_to_bytearray(self._model))
        index = next(i for i, other in enumerate(self._model.subgraphs) if other is self._graph)
        graph, number = model.subgraphs[index], {name: i for i, name in enumerate(self._names)}
        graph.operators = self._operators(graph, {op.outputs[0] for op in piece.ops})
        used = {int(i) for op in graph.operators for i in (*op.inputs, *op.outputs) if i >= 0}
        kept = {graph.tensors[i].buffer for i in used}
        kept |= {tensor.buffer for other in model.subgraphs if other is not graph for tensor in other.tensors}
        for place, buffer in enumerate(model.buffers):
            if place not in kept:
                buffer.data = None
        graph.inputs = np.array([number[name] for name in piece.inputs], np.int32)
        graph.outputs = np.array([number[piece.output]], np.int32)
        model.signatureDefs = [_signature_def(self._tools.schema_fb, index, graph)]
        return bytes(self._tools.convert_object_to_bytearray(model))

    def _operators(self, graph: Any, wanted: set[str]) -> list[Any]:
        """Returns the wanted operators, and those that turn their constants into float32."""
        own = [op for op in graph.operators if self._names[op.outputs[0]] in wanted]
        needed = {int(index) for op in own for index in op.inputs}
        return [
            op
            for op in graph.operators
            if self._names[op.outputs[0]] in wanted or (op.outputs[0] in self._constant and op.outputs[0] in needed)
        ]

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
        runner = interpreter.get_signature_runner("main")
        runner(**{f"input_{i}": inputs[name] for i, name in enumerate(piece.inputs)})
        details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
        for name in (name for op in piece.ops for name in op.outputs if wanted is None or name in wanted):
            index = self._names.index(name)
            if index in details:
                yield name, np.array(interpreter.get_tensor(index))


def _tools() -> Any:
    try:
        from ai_edge_litert.tools import flatbuffer_utils
    except ImportError as error:
        raise MissingDependencyError(
            "bisecting a .tflite file needs ai-edge-litert", error, "Install it: pip install 'sdmobile[android]'."
        ) from error
    return flatbuffer_utils


def _constant_tensors(model: Any, graph: Any, code: Any) -> dict[int, int]:
    """Returns the tensors that are constant, with the tensor that holds the data: itself, or its float16 original."""
    fed = {int(index) for index in graph.inputs}
    computed = {int(index) for op in graph.operators for index in op.outputs}
    holders = {
        i: i
        for i, tensor in enumerate(graph.tensors)
        if i not in fed and i not in computed and model.buffers[tensor.buffer].data is not None
    }
    for op in graph.operators:
        if code(op) == _DEQUANTIZE and op.inputs[0] in holders:
            holders[int(op.outputs[0])] = int(op.inputs[0])
    return holders


def _signature_def(schema: Any, index: int, graph: Any) -> Any:
    """Returns a signature `main` with the inputs input_0, input_1, … and one output."""
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "main", index
    signature.inputs = [_tensor_map(schema, f"input_{i}", tensor) for i, tensor in enumerate(graph.inputs)]
    signature.outputs = [_tensor_map(schema, _OUTPUT, graph.outputs[0])]
    return signature


def _tensor_map(schema: Any, name: str, index: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, int(index)
    return entry


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
