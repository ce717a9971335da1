"""Breaks exported files on purpose, in the bytes that were saved, and makes the manifest agree with the result."""

from __future__ import annotations

import copy
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sdmobile.formats.mlprogram.package import open_package
from tests.validate.bundles import read_manifest, write_manifest

Change = Callable[[np.ndarray], np.ndarray]
BLOB = struct.Struct("<IIQQQ")


def seal(folder: Path) -> Path:
    """Writes the manifest anew, so that hashes do not give the damage away."""
    write_manifest(folder, read_manifest(folder))
    return folder


class Package:
    """A Core ML package that is being broken."""

    def __init__(self, path: Path) -> None:
        from coremltools.proto import Model_pb2

        self._file = open_package(path).model
        self.weights = self._file.parent / "weights" / "weight.bin"
        self._model: Any = Model_pb2.Model()  # pyright: ignore[reportAttributeAccessIssue]
        self._model.ParseFromString(self._file.read_bytes())
        function = next(iter(self._model.mlProgram.functions.values()))
        self.block = function.block_specializations[function.opset]
        self.by_output = {op.outputs[0].name: op for op in self.block.operations}

    def save(self) -> None:
        self._file.write_bytes(self._model.SerializeToString())

    def change_weight(self, fragment: str, change: Change) -> None:
        """Rewrites the one constant whose name contains a fragment, in place."""
        (op,) = [op for name, op in self.by_output.items() if fragment in name and op.type == "const"]
        shape = [item.constant.size for item in op.outputs[0].type.tensorType.dimensions]
        raw = bytearray(self.weights.read_bytes())
        _, _, size, start, _ = BLOB.unpack_from(raw, op.attributes["val"].blobFileValue.offset)
        array = np.frombuffer(bytes(raw[start : start + size]), np.float16).reshape(shape)
        raw[start : start + size] = np.ascontiguousarray(change(array)).astype(np.float16).tobytes()
        self.weights.write_bytes(raw)

    def set_epsilon(self, fragment: str, value: float) -> None:
        """Changes the epsilon of the norm whose output's name contains a fragment."""
        norms = ("instance_norm", "layer_norm")
        (op,) = [op for name, op in self.by_output.items() if fragment in name and op.type in norms]
        tensor = self.by_output[op.inputs["epsilon"].arguments[0].name].attributes["val"].immediateValue.tensor
        if tensor.WhichOneof("value") == "bytes":
            tensor.bytes.values = np.float16(value).tobytes()
        else:
            tensor.floats.values[0] = value
        self.save()

    def multiply_epsilon(self, fragment: str, factor: float) -> None:
        """Multiplies the epsilon of the first norm whose output's name begins with a fragment."""
        norms = ("instance_norm", "layer_norm")
        op = next(op for name, op in self.by_output.items() if name.startswith(fragment) and op.type in norms)
        tensor = self.by_output[op.inputs["epsilon"].arguments[0].name].attributes["val"].immediateValue.tensor
        if tensor.WhichOneof("value") == "bytes":
            tensor.bytes.values = (np.frombuffer(tensor.bytes.values, np.float16) * np.float16(factor)).tobytes()
        else:
            tensor.floats.values[0] *= factor
        self.save()

    def take_instead(self, first: str, second: str) -> bool:
        """Lets the operations that take one constant take another one; returns whether there are any."""
        taken = [b for op in self.block.operations for a in op.inputs.values() for b in a.arguments if b.name == first]
        for binding in taken:
            binding.name = second
        if taken:
            self.save()
        return bool(taken)

    def exchange_takers(self, first: str, second: str) -> bool:
        """Lets the operations that take one of two constants take the other; returns whether both are there."""
        takers = [
            [b for op in self.block.operations for a in op.inputs.values() for b in a.arguments if b.name == name]
            for name in (first, second)
        ]
        for bindings, name in zip(takers, (second, first), strict=True):
            for binding in bindings:
                binding.name = name
        self.save()
        return all(takers)

    def return_early(self) -> None:
        """Makes the program's output the last earlier value of its shape."""
        last = self.by_output[self.block.outputs[0]]
        source = self.by_output[last.inputs["x"].arguments[0].name]
        earlier = self.block.operations[: list(self.block.operations).index(source)]
        alike = [op for op in earlier if op.outputs[0].type == source.outputs[0].type and op.type != "const"]
        self.output_from(alike[-1].outputs[0].name)

    def output_from(self, value: str) -> None:
        """Makes the program's output a copy of an earlier value of the same shape."""
        last = self.by_output[self.block.outputs[0]]
        last.inputs["x"].arguments[0].name = value
        self.save()


class Flatbuffer:
    """A `.tflite` file that is being broken."""

    def __init__(self, path: Path) -> None:
        from ai_edge_litert.tools import flatbuffer_utils

        self._path, self._tools = path, flatbuffer_utils
        self.model: Any = flatbuffer_utils.read_model(str(path))
        self.graph: Any = self.model.subgraphs[0]

    def save(self) -> None:
        self._tools.write_model(self.model, str(self._path))

    def change_weight(self, module: str, shape: tuple[int, ...], change: Change) -> None:
        """Rewrites the one float16 tensor of a shape that an operation of a module takes, through its DEQUANTIZE."""
        tensors = self.graph.tensors
        found = set()
        for op in self.graph.operators:
            source = op.inputs[0]
            name = tensors[op.outputs[0]].name.decode()
            if name.split(";")[0] == module and tensors[source].type == 1 and tuple(tensors[source].shape) == shape:
                found.add(tensors[source].buffer)
        (buffer,) = found
        data = np.asarray(self.model.buffers[buffer].data, np.uint8).view(np.float16).reshape(shape)
        self.model.buffers[buffer].data = np.frombuffer(np.ascontiguousarray(change(data)).tobytes(), np.uint8)
        self.save()

    def set_scalar(self, module: str, old: float, new: float) -> None:
        """Changes a scalar that the operations of a module take, in the main graph or in the decompositions it uses."""
        changed = 0
        for graph in [self.graph, *self._decompositions(module)]:
            own = graph is not self.graph
            for op in graph.operators:
                if own or graph.tensors[op.outputs[0]].name.decode().split(";")[0] == module:
                    changed += self._replace_scalar(graph, op, old, new)
        assert changed
        self.save()

    def multiply_epsilon(self, module: str, factor: float) -> None:
        """Multiplies the epsilon of a norm wherever its file has it: 1e-5 or 1e-6, or its root, as a scalar."""
        for epsilon in (1e-5, 1e-6):
            for old in (epsilon, epsilon**0.5):
                try:
                    return self.set_scalar(module, old, old * factor)
                except AssertionError:
                    continue
        raise AssertionError(module)

    def take_instead(self, first: str, second: str) -> bool:
        """Lets the operators that take one constant take another one; returns whether there are any."""
        names = [tensor.name.decode() for tensor in self.graph.tensors]
        if first not in names or second not in names:
            return False
        here, there, changed = names.index(first), names.index(second), False
        for op in self.graph.operators:
            if here in op.inputs:
                op.inputs = np.where(np.asarray(op.inputs) == here, there, op.inputs).astype(np.int32)
                changed = True
        self.save()
        return changed

    def exchange_takers(self, first: str, second: str) -> bool:
        """Lets the operators that take one of two constants take the other; returns whether both are there."""
        names = [tensor.name.decode() for tensor in self.graph.tensors]
        if first not in names or second not in names:
            return False
        other = {names.index(first): names.index(second), names.index(second): names.index(first)}
        for op in self.graph.operators:
            op.inputs = np.array([other.get(index, index) for index in op.inputs], np.int32)
        self.save()
        return True

    def return_early(self) -> None:
        """Makes the file's output the last earlier value of its shape."""
        output = self.graph.tensors[self.graph.outputs[0]]
        computed = [index for op in self.graph.operators for index in op.outputs if index != self.graph.outputs[0]]
        alike = [i for i in computed if list(self.graph.tensors[i].shape) == list(output.shape)]
        chosen = next(i for i in reversed(alike) if self.graph.tensors[i].type == output.type)
        self.graph.outputs = np.array([chosen], np.int32)
        for signature in self.model.signatureDefs:
            signature.outputs[0].tensorIndex = chosen
        self.save()

    def _decompositions(self, module: str) -> list[Any]:
        """Returns the subgraphs of the composites of a module."""
        return [
            self.model.subgraphs[op.builtinOptions2.decompositionSubgraphIndex]
            for op in self.graph.operators
            if hasattr(op.builtinOptions2, "decompositionSubgraphIndex")
            and self.graph.tensors[op.outputs[0]].name.decode().split(";")[0] == module
        ]

    def _replace_scalar(self, graph: Any, op: Any, old: float, new: float) -> int:
        """Gives one operation a scalar of its own, since converters let operations share them."""
        changed = 0
        for place, index in enumerate(op.inputs):
            tensor = graph.tensors[index] if index >= 0 else None
            data = None if tensor is None else self.model.buffers[tensor.buffer].data
            if tensor is None or data is None or tensor.type != 0 or len(data) != 4:
                continue
            if np.isclose(np.asarray(data, np.uint8).view(np.float32)[0], old, rtol=1e-4):
                buffer, copied = self._tools.schema_fb.BufferT(), copy.copy(tensor)
                buffer.data = np.frombuffer(np.float32(new).tobytes(), np.uint8)
                self.model.buffers.append(buffer)
                copied.buffer = len(self.model.buffers) - 1
                graph.tensors.append(copied)
                op.inputs[place] = len(graph.tensors) - 1
                changed += 1
        return changed

    def insert_broadcast(self, after: str) -> None:
        """Lets the first value of an operation type pass through a BROADCAST_TO to its own shape."""
        schema, tools = self._tools.schema_fb, self._tools
        graph = self.graph
        index, op = next(
            (i, one)
            for i, one in enumerate(graph.operators)
            if tools.opcode_to_name(self.model, one.opcodeIndex) == after
        )
        value = op.outputs[0]
        source = graph.tensors[value]
        copied, shape = schema.TensorT(), schema.TensorT()
        copied.name, copied.type, copied.shape, copied.buffer = source.name, source.type, source.shape, 0
        shape.name, shape.type, shape.shape = b"broadcast_shape", 2, np.array([len(source.shape)], np.int32)
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.asarray(source.shape, np.int32).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        shape.buffer = len(self.model.buffers) - 1
        graph.tensors += [copied, shape]
        broadcast, code = schema.OperatorT(), schema.OperatorCodeT()
        code.deprecatedBuiltinCode, code.builtinCode, code.version = 127, schema.BuiltinOperator.BROADCAST_TO, 2
        self.model.operatorCodes.append(code)
        broadcast.opcodeIndex = len(self.model.operatorCodes) - 1
        broadcast.inputs = np.array([value, len(graph.tensors) - 1], np.int32)
        broadcast.outputs = np.array([len(graph.tensors) - 2], np.int32)
        for one in graph.operators[index + 1 :]:
            one.inputs = np.where(one.inputs == value, len(graph.tensors) - 2, one.inputs).astype(np.int32)
        graph.operators.insert(index + 1, broadcast)
        self.save()
