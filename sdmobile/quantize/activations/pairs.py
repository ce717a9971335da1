"""Writes `quantize` and `dequantize` in front of operations of a saved ML Program, and reads them back."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.errors import ComponentError, UnsupportedError
from sdmobile.formats.mlprogram.read import read_program
from sdmobile.formats.mlprogram.types import DATA_TYPES
from sdmobile.formats.mlprogram.values import Constant
from sdmobile.quantize.coreml.package import blocks

if TYPE_CHECKING:
    from pathlib import Path

    from sdmobile.formats.mlprogram.ir import Function, Operation

_NUMBERS = {name: number for number, name in DATA_TYPES.items()}
_DTYPE = "int8"
_OPERANDS = ("x", "y", "values", "input")

Uses = Mapping[str, Mapping[str, float]]
"""Name of an operation to its quantised operands: name of the value to its scale."""


def insert_pairs(spec: Any, uses: Uses) -> int:
    """Puts one pair in front of the first user of each activation and lets all its chosen users take the result.

    quantize: q = clip(round(x / scale), −128, 127) as int8; dequantize: scale · q. Both without a zero point, as
    coremltools' `insert_prefix_quantize_dequantize_pair` writes them for "linear_symmetric".

    Args:
        spec: a Model message with one function, changed in place.
        uses: what to quantise; one value has one scale.

    Returns:
        Number of pairs.

    Raises:
        UnsupportedError: several functions, an operation that is not there, or two scales for a value.
    """
    functions = blocks(spec)
    if len(functions) != 1:
        raise UnsupportedError("activations are quantised in a package of one function", f"{len(functions)} functions")
    block = functions[0]
    scales = _one_scale_each(uses)
    types = {item.name: item.type for item in spec.mlProgram.functions[next(iter(spec.mlProgram.functions))].inputs}
    operations = list(block.operations)
    names = {output.name for operation in operations for output in operation.outputs} | set(types)
    fresh = _fresh_names(names)
    written: list[Any] = []
    dequantized: dict[str, str] = {}
    seen: set[str] = set()
    for operation in operations:
        name = _name(operation)
        for value in uses.get(name, {}):
            if value not in dequantized:
                pair, result = _pair(value, types[value], scales[value], fresh)
                written += pair
                dequantized[value] = result
        if name in uses:
            seen.add(name)
            _rename(operation, {value: dequantized[value] for value in uses[name]})
        types.update((output.name, output.type) for output in operation.outputs)
        written.append(operation)
    if set(uses) - seen:
        raise UnsupportedError("operations to quantise must be in the program", sorted(set(uses) - seen)[:3])
    copies = [_copy(operation) for operation in written]
    del block.operations[:]
    block.operations.extend(copies)
    return len(dequantized)


def check_pairs(path: Path, uses: Uses, dtypes: Mapping[str, str]) -> int:
    """Reads a package with the evaluator's reader and checks that every chosen operation takes its operands in int8.

    Args:
        path: the `.mlpackage` folder.
        uses: what `insert_pairs` was given.
        dtypes: element type of each value.

    Returns:
        Number of operands checked.

    Raises:
        ComponentError: an operand is not what was meant.
    """
    program = read_program(path)[1]
    made = {output.name: operation for operation in program.operations for output in operation.outputs}
    by_name = {operation.name: operation for operation in program.operations}
    checked = 0
    for name, scales in uses.items():
        taken = [_quantized_source(binding, made) for binding in _operands(by_name[name])]
        for value, scale in scales.items():
            stored = float(np.dtype(dtypes[value]).type(scale))
            if (value, stored) not in taken:
                raise ComponentError("a quantised operand must be read back", f"{name}: {value} with scale {stored}")
            checked += 1
    return checked


def pairs_of(program: Function) -> dict[str, float]:
    """Returns the values of a program that are quantised per tensor, with their scales."""
    made = {output.name: operation for operation in program.operations for output in operation.outputs}
    pairs = [_quantized_source(op.outputs[0].name, made) for op in program.operations if op.type == "dequantize"]
    return dict(pair for pair in pairs if pair is not None)


def _operands(operation: Operation) -> Iterator[Any]:
    for name in _OPERANDS:
        yield from operation.inputs.get(name, ())


def _quantized_source(binding: Any, made: Mapping[str, Operation]) -> tuple[str, float] | None:
    """Returns the value behind dequantize and quantize, and their scale if it is the same; else None."""
    dequantize = made.get(binding) if isinstance(binding, str) else None
    if dequantize is None or dequantize.type != "dequantize":
        return None
    quantize = made.get(str(dequantize.inputs["input"][0]))
    if quantize is None or quantize.type != "quantize" or quantize.outputs[0].type.dtype != _DTYPE:
        return None
    scales = {_scale(operation, made) for operation in (quantize, dequantize)}
    source = quantize.inputs["input"][0]
    return (source, scales.pop()) if len(scales) == 1 and isinstance(source, str) else None


def _scale(operation: Operation, made: Mapping[str, Operation]) -> float:
    binding = operation.inputs["scale"][0]
    constant = binding if isinstance(binding, Constant) else made[binding].attributes["val"]
    return float(np.asarray(constant.value).reshape(-1)[0])


def _one_scale_each(uses: Uses) -> dict[str, float]:
    scale_of: dict[str, float] = {}
    for scales in uses.values():
        for value, scale in scales.items():
            if scale_of.setdefault(value, scale) != scale:
                raise UnsupportedError("an activation has one scale", f"{value}: {scale_of[value]} and {scale}")
    return scale_of


def _fresh_names(taken: set[str]) -> Iterator[int]:
    """Yields numbers for which no value of the program has the names that a pair gets."""
    numbers = itertools.count()
    return (n for n in numbers if not {f"quantize_{n}", f"dequantize_{n}"} & taken)


def _pair(value: str, kind: Any, scale: float, fresh: Iterator[int]) -> tuple[list[Any], str]:
    """Returns the messages of a pair with their constants, and the name of the result."""
    number = next(fresh)
    quantized, result = f"quantize_{number}", f"dequantize_{number}"
    dtype = DATA_TYPES[kind.tensorType.dataType]
    integers = _copy(kind)
    integers.tensorType.dataType = _NUMBERS[_DTYPE]
    quantize = _operation("quantize", quantized, integers)
    dequantize = _operation("dequantize", result, kind)
    constants = []
    for operation, label, source in ((quantize, quantized, value), (dequantize, result, quantized)):
        constants.append(_constant(f"{label}_scale_0", scale, dtype))
        operation.inputs["input"].arguments.add().name = source
        operation.inputs["scale"].arguments.add().name = f"{label}_scale_0"
    constants.append(_constant(f"{quantized}_output_dtype_0", _DTYPE, "string"))
    quantize.inputs["output_dtype"].arguments.add().name = f"{quantized}_output_dtype_0"
    return [constants[0], constants[2], quantize, constants[1], dequantize], result


def _operation(kind: str, name: str, output: Any) -> Any:
    from coremltools.proto import MIL_pb2

    message: Any = MIL_pb2.Operation()  # pyright: ignore[reportAttributeAccessIssue]
    message.type = kind
    message.attributes["name"].CopyFrom(_value(name, "string"))
    result = message.outputs.add()
    result.name = name
    result.type.CopyFrom(output)
    return message


def _constant(name: str, value: float | str, dtype: str) -> Any:
    scalar = _value(value, dtype)
    message = _operation("const", name, scalar.type)
    message.attributes["val"].CopyFrom(scalar)
    return message


def _value(value: float | str, dtype: str) -> Any:
    """Returns a Value message of a scalar."""
    from coremltools.proto import MIL_pb2

    message: Any = MIL_pb2.Value()  # pyright: ignore[reportAttributeAccessIssue]
    message.type.tensorType.dataType = _NUMBERS[dtype]
    tensor = message.immediateValue.tensor
    if dtype == "string":
        tensor.strings.values.append(value)
    elif dtype == "float32":
        tensor.floats.values.append(value)
    else:
        tensor.bytes.values = np.dtype(dtype).type(value).tobytes()
    return message


def _rename(operation: Any, names: Mapping[str, str]) -> None:
    for parameter in _OPERANDS:
        if parameter in operation.inputs:
            for argument in operation.inputs[parameter].arguments:
                if argument.name in names:
                    argument.name = names[argument.name]


def _name(operation: Any) -> str:
    if "name" in operation.attributes:
        return operation.attributes["name"].immediateValue.tensor.strings.values[0]
    return operation.outputs[0].name


def _copy(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy
