"""Looks into a saved Core ML package, and cuts parts out of it with the bytes that they have there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.basics.files import copy
from sdmobile.errors import MissingDependencyError
from sdmobile.formats.mlprogram.blob_writer import BlobWriter
from sdmobile.formats.mlprogram.constants import WeightReader
from sdmobile.formats.mlprogram.package import open_package
from sdmobile.formats.mlprogram.types import ARRAY_TYPES, DATA_TYPES, FLOATS
from sdmobile.formats.mlprogram.write import BlobCopier, program_bytes, stored_type
from sdmobile.validate.bisect.graph import ExportedGraph, FileOp, Piece

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.formats.bundle.contracts import Contract
    from sdmobile.runtimes.mlprogram.precision import Precision
    from sdmobile.validate.bisect.graph import Arrays, ModuleNames

_ARRAY_NUMBERS = {name: number for number, name in ARRAY_TYPES.items()}


class CoreMLGraph(ExportedGraph):
    """A package with one function of fixed shapes.

    Args:
        path: the `.mlpackage` folder.
        contract: names of inputs and output.
        modules: the checkpoint's modules.
        precision: how the project's evaluator computes.
    """

    def __init__(self, path: Path, contract: Contract, modules: ModuleNames, precision: Precision) -> None:
        self._package = open_package(path)
        self._weights = WeightReader(path)
        self._precision: Precision = precision
        self._model = _read(self._package.model)
        self._function = next(iter(self._model.mlProgram.functions.values()))
        self._block = self._function.block_specializations[self._function.opset]
        self._types = {item.name: item.type for item in self._function.inputs}
        self._types |= {item.name: item.type for op in self._block.operations for item in op.outputs}
        self._messages = {op.outputs[0].name: op for op in self._block.operations}
        constants = {item.name for op in self._block.operations if _is_constant(op) for item in op.outputs}
        ops = [_file_op(op, constants, modules) for op in self._block.operations if not _is_constant(op)]
        super().__init__(ops, [spec.name for spec in contract.inputs], contract.outputs[0].name)

    def values(self, inputs: Arrays) -> Iterator[tuple[str, NDArray[Any]]]:
        """Runs the package with the project's evaluator, which drops each value after its last use."""
        return self._run(self._package.path, inputs)

    def write(self, piece: Piece, folder: Path) -> Path:
        """Writes a part as `subgraph.mlpackage`, with the weights that it takes and no others."""
        path = folder / "subgraph.mlpackage"
        weights = self._package.model.parent / "weights"
        copy(self._package.path, path, leave_out=weights.name)
        model = _read(self._package.model)
        block = self._block_of(model)
        del block.operations[:]
        block.operations.extend(self._needed(piece))
        stored = [value for operation in block.operations for value in _stored_values(operation)]
        if stored:
            target = _place_of(weights, self._package.path, path)
            target.mkdir()
            with BlobWriter(target / "weight.bin") as writer:
                copier = BlobCopier(self._weights, writer)
                for value in stored:
                    copier.move(value)
        self._save(self._with_interface(model, self._named(piece.inputs), [piece.output]), path)
        return path

    def run_part(self, file: Path, piece: Piece, inputs: Arrays) -> NDArray[Any]:
        """Runs a part with the project's evaluator."""
        return next(array.copy() for name, array in self._run(file, inputs) if name == piece.output)

    def constants(self, op: FileOp) -> dict[str, NDArray[Any]]:
        """Returns the floating-point constants that an operation takes; compressed ones are left out."""
        arrays = {}
        for parameter, argument in self._messages[op.outputs[0]].inputs.items():
            if op.type == "batch_norm" and parameter == "epsilon":
                continue  # an affine map in disguise: its variance is 1 and its epsilon the converter's own
            for binding in argument.arguments:
                value = self._constant(binding)
                array = None if value is None else self._array(value)
                if array is not None:
                    name = binding.name if binding.WhichOneof("binding") == "name" else parameter
                    arrays[f"{parameter} of {op.name}" if array.size == 1 else name] = array
        return arrays

    def dtype_of(self, name: str) -> type[np.generic]:
        """Returns the element type that the file has for a value."""
        dtype = DATA_TYPES[self._types[name].tensorType.dataType]
        return np.dtype(dtype).type if dtype in FLOATS else np.int32

    def _run(self, path: Path, inputs: Arrays) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yields floating-point values as the evaluator has them, in float32 whatever the file's type is."""
        from sdmobile.runtimes.mlprogram import MLProgram

        program = MLProgram(path, precision=self._precision, cache_bytes=0)
        feeds = {name: array.astype(np.float32) if array.dtype.kind == "f" else array for name, array in inputs.items()}
        for step, values in program.results(feeds):
            for output in step.operation.outputs:
                if output.name in values and values[output.name].is_floating_point():
                    yield output.name, values[output.name].numpy()

    def _block_of(self, model: Any) -> Any:
        function = next(iter(model.mlProgram.functions.values()))
        return function.block_specializations[function.opset]

    def _named(self, names: Iterable[str]) -> list[Any]:
        from coremltools.proto import MIL_pb2

        return [MIL_pb2.NamedValueType(name=name, type=self._types[name]) for name in names]  # pyright: ignore

    def _with_interface(self, model: Any, inputs: Iterable[Any], outputs: Iterable[str]) -> Any:
        """Returns a copy of a model that takes and gives other values."""
        changed, feeds = type(model)(), list(inputs)
        changed.CopyFrom(model)
        function = next(iter(changed.mlProgram.functions.values()))
        del function.inputs[:]
        function.inputs.extend(feeds)
        block = function.block_specializations[function.opset]
        del block.outputs[:]
        block.outputs.extend(outputs)
        del changed.description.input[:], changed.description.output[:]
        for item in feeds:
            self._describe(changed.description.input.add(), item.name)
        for name in block.outputs:
            self._describe(changed.description.output.add(), name)
        return changed

    def _describe(self, feature: Any, name: str) -> None:
        array, tensor = feature.type.multiArrayType, self._types[name].tensorType
        feature.name = name
        array.dataType = _ARRAY_NUMBERS[DATA_TYPES[tensor.dataType]]
        array.shape.extend(dimension.constant.size for dimension in tensor.dimensions)

    def _save(self, model: Any, path: Path) -> None:
        target = _place_of(self._package.model, self._package.path, path)
        target.unlink(missing_ok=True)  # it may be a link to the original
        target.write_bytes(program_bytes(model))

    def _needed(self, piece: Piece) -> list[Any]:
        """Returns the messages of a part and of the constants that it takes, in the order of the program."""
        waiting = [name for op in piece.ops for name in op.outputs[:1]]
        needed: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name in needed:
                continue
            needed.add(name)
            arguments = self._messages[name].inputs.values()
            bound = (b.name for a in arguments for b in a.arguments if b.WhichOneof("binding") == "name")
            waiting += [taken for taken in bound if taken in self._messages and _is_constant(self._messages[taken])]
        return [op for op in self._block.operations if op.outputs[0].name in needed]

    def _constant(self, binding: Any) -> Any:
        """Returns the value of a constant argument, None for anything else."""
        if binding.WhichOneof("binding") == "value":
            return binding.value
        op = self._messages.get(binding.name)
        return op.attributes["val"] if op is not None and op.type == "const" else None

    def _array(self, value: Any) -> NDArray[Any] | None:
        declared = stored_type(value)
        if declared.dtype not in FLOATS:
            return None
        if value.WhichOneof("value") == "blobFileValue":
            return self._weights.read_blob(value.blobFileValue.fileName, value.blobFileValue.offset, declared)
        dtype, shape = np.dtype(declared.dtype), declared.sizes
        stored = value.immediateValue.tensor
        data = stored.bytes.values if stored.WhichOneof("value") == "bytes" else None
        array = np.frombuffer(data, dtype) if data is not None else np.array(stored.floats.values, dtype)
        return array.reshape(shape) if array.size == int(np.prod(shape)) else None


def _read(file: Path) -> Any:
    try:
        from coremltools.proto import Model_pb2
    except ImportError as error:
        raise MissingDependencyError(
            "bisecting a Core ML package needs coremltools", error, "Install it: pip install 'sdmobile[ios]'."
        ) from error
    model: Any = Model_pb2.Model()  # pyright: ignore[reportAttributeAccessIssue]
    model.ParseFromString(file.read_bytes())
    return model


def _is_constant(op: Any) -> bool:
    return op.type == "const" or op.type.startswith("constexpr_")


def _file_op(op: Any, constants: set[str], modules: ModuleNames) -> FileOp:
    bound = [b.name for a in op.inputs.values() for b in a.arguments if b.WhichOneof("binding") == "name"]
    outputs = tuple(item.name for item in op.outputs)
    named = (outputs[0], *(name for name in bound if name in constants))  # converters rename operations, not weights
    module = next((path for path in map(modules.of_identifier, named) if path is not None), None)
    return FileOp(outputs[0], op.type, tuple(name for name in bound if name not in constants), outputs, module)


def _stored_values(op: Any) -> list[Any]:
    """Returns the Value messages of an operation whose arrays lie in a weight file."""
    arguments = [binding.value for argument in op.inputs.values() for binding in argument.arguments]
    return [value for value in (*op.attributes.values(), *arguments) if value.HasField("blobFileValue")]


def _place_of(file: Path, package: Path, copy: Path) -> Path:
    return copy / file.relative_to(package)
