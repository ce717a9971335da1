"""A saved `.mlpackage` as a neutral graph, through the reader of the own evaluator: no coremltools, no weight read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sdmobile.errors import UnsupportedError
from sdmobile.formats.graph.graph import FileGraph, Operation, Tensor
from sdmobile.formats.mlprogram import ir
from sdmobile.formats.mlprogram.blob import BlobFile
from sdmobile.formats.mlprogram.modules import module_near
from sdmobile.formats.mlprogram.package import Package
from sdmobile.formats.mlprogram.read import read_program
from sdmobile.formats.mlprogram.types import NamedType
from sdmobile.formats.mlprogram.values import Constant

_OPERANDS = (
    *("x", "values", "query", "key", "value", "cond", "a", "b", "y", "data", "indices", "updates", "input"),
    *("weight", "weight_ih", "weight_hh", "bias", "mean", "variance", "gamma", "beta", "attn_mask", "reference"),
)
"""Parameters that carry tensors, in the order in which the graph lists them; the others are options."""

_WEIGHT_NAME = re.compile(r"^p_(?:component_)?(.+?)_(?:weight|gamma)(?:_to_fp16|_palettized|_quantized|_pruned|_\d+)*$")
_INDEX = re.compile(r"_(\d+)(?=_|$)")


@dataclass
class _Reader:
    """What is gathered while the operations are walked through."""

    package: Package
    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)  # immediate constants, for options
    files: dict[str, BlobFile] = field(default_factory=dict)
    seen: set[tuple[str, int]] = field(default_factory=set)
    unclaimed: dict[str, int] = field(default_factory=dict)  # bytes of constants that a constexpr may take over

    def stored_bytes(self, constant: Constant) -> int:
        """Bytes of a constant in the file; a blob that was counted before has none."""
        if isinstance(constant.value, np.ndarray):
            return constant.value.nbytes
        if constant.value is not None or (constant.file, constant.offset) in self.seen:
            return 0
        self.seen.add((constant.file, constant.offset))
        if constant.file not in self.files:
            self.files[constant.file] = BlobFile(self.package.resolve(constant.file))
        return self.files[constant.file].check(constant.offset, constant.type)[2]

    def add(self, output: NamedType, stored: int | None) -> None:
        """Adds a tensor; a constant has the bytes it takes in the file."""
        if None in output.type.shape:
            raise UnsupportedError("costs are predicted for fixed shapes only", f"{output.name}: {output.type}")
        self.tensors[output.name] = Tensor(
            output.name, output.type.sizes, output.type.dtype, stored is not None, stored or 0
        )


def read_mlpackage(path: Path, function: str | None = None, modules: Iterable[str] = ()) -> FileGraph:
    """Reads one function of an ML Program.

    Constants and what is decompressed from them (`constexpr_*`) become constant tensors: their element type is the one
    the program computes with, their stored bytes are those in the file, each blob counted once.

    Args:
        path: the `.mlpackage` folder.
        function: its name in a package of several; by default the one that the package names as default.
        modules: dotted paths of the modules of the source; without them, dots are restored around numbers only.

    Returns:
        The graph; operands of an operation come in the order x, ..., weight, bias.

    Raises:
        UnsupportedError: a size depends on the input, or the model is no ML Program.
        PackageError: a file is missing or corrupt.
    """
    package, program = read_program(path, function)
    reader = _Reader(package)
    for item in program.inputs:
        reader.add(item, None)
    modules = tuple(modules)
    operations = []
    for index, operation in enumerate(program.operations):
        if operation.type == "const":
            _constant(reader, operation)
        elif operation.type.startswith("constexpr_"):
            _compressed(reader, operation)
        else:
            name = _module(program.operations, index, modules)
            operations.append(_computed(reader, operation, name))
    operands = {name for operation in operations for name in operation.inputs}
    tensors = {n: t for n, t in reader.tensors.items() if not t.constant or n in operands}  # options are none
    return FileGraph(
        format="mlprogram",
        tensors=tensors,
        operations=tuple(operations),
        inputs=tuple(item.name for item in program.inputs),
        outputs=tuple(item.name for item in program.outputs),
        file_bytes=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
    )


def _constant(reader: _Reader, operation: ir.Operation) -> None:
    output, constant = operation.outputs[0], operation.attributes["val"]
    reader.values[output.name] = _plain(constant)
    if output.type.dtype != "string":
        stored = reader.stored_bytes(constant)
        reader.unclaimed[output.name] = stored
        reader.add(output, stored)


def _compressed(reader: _Reader, operation: ir.Operation) -> None:
    """One decompressed constant: it takes over the bytes of everything that it is decoded from."""
    stored = sum(reader.stored_bytes(item) for item in _immediate(operation))
    for name in _named(operation):
        stored += reader.unclaimed.pop(name, 0)
        reader.tensors.pop(name, None)
    for index, output in enumerate(operation.outputs):
        claimed = 0 if index else stored
        reader.unclaimed[output.name] = claimed
        reader.add(output, claimed)


def _computed(reader: _Reader, operation: ir.Operation, name: str) -> Operation:
    if operation.blocks:
        raise UnsupportedError(
            "A graph must be free of branches and loops",
            f"{operation.type} '{operation.name}'",
            "Choose a model whose operations run once each",
        )
    inputs: list[str] = []
    for parameter in _OPERANDS:
        for number, item in enumerate(operation.inputs.get(parameter, ())):
            if isinstance(item, str):
                inputs.append(item)
            elif not isinstance(item.value, str):
                own = NamedType(f"{operation.outputs[0].name}.{parameter}.{number}", item.type)
                reader.add(own, reader.stored_bytes(item))
                inputs.append(own.name)
    for output in operation.outputs:
        reader.add(output, None)
    outputs = tuple(output.name for output in operation.outputs)
    return Operation(operation.type, name, tuple(inputs), outputs, _options(reader, operation))


def _options(reader: _Reader, operation: ir.Operation) -> Mapping[str, Any]:
    options = {name: _plain(constant) for name, constant in operation.attributes.items()}
    for parameter, bindings in operation.inputs.items():
        if parameter in _OPERANDS or not bindings:
            continue
        item = bindings[0]
        value = reader.values.get(item) if isinstance(item, str) else _plain(item)
        if value is not None:
            options[parameter] = value
    return options


def _plain(constant: Constant) -> Any:
    """Immediate values as numbers, strings or tuples; None for what lies in the weight file or is large."""
    if isinstance(constant.value, np.ndarray):
        return constant.value.item() if constant.value.ndim == 0 else _listed(constant.value)
    return constant.value


def _listed(array: np.ndarray) -> tuple[Any, ...] | None:
    return tuple(array.reshape(-1).tolist()) if array.size <= 16 else None


def _immediate(operation: ir.Operation) -> Iterator[Constant]:
    for bindings in operation.inputs.values():
        yield from (item for item in bindings if isinstance(item, Constant))
    yield from operation.attributes.values()


def _named(operation: ir.Operation) -> Iterator[str]:
    for bindings in operation.inputs.values():
        yield from (item for item in bindings if isinstance(item, str))


def _module(operations: tuple[ir.Operation, ...], index: int, modules: tuple[str, ...]) -> str:
    """The module of an operation: that of its weight, else the one in its name or in that of a user of its result."""
    for parameter in ("weight", "gamma"):
        for item in operations[index].inputs.get(parameter, ()):
            weight = _WEIGHT_NAME.match(item) if isinstance(item, str) else None
            if weight is not None:
                return _dotted(weight.group(1), modules)
    name = module_near(operations, index, modules)
    return name if modules else _dotted(name, ())


def _dotted(name: str, modules: tuple[str, ...]) -> str:
    by_name = {path.replace(".", "_"): path for path in modules}
    return by_name.get(name) or _INDEX.sub(r".\1.", name).replace("._", ".").rstrip(".")
