"""Reads the constants of a Core ML package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.formats.mlprogram.read import function_names, read_program
from sdmobile.formats.mlprogram.types import FLOATS
from sdmobile.formats.mlprogram.values import Constant
from sdmobile.runtimes.mlprogram.constants import named_constants, open_weights, type_of
from sdmobile.runtimes.mlprogram.weights import CompressedOutput
from sdmobile.validate.weights.stored import (
    NATURAL,
    Coding,
    Epsilon,
    FileConstants,
    Float,
    Palette,
    Steps,
    StoredArray,
    Use,
    belongs_to,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from sdmobile.formats.mlprogram.ir import Function, Operation
    from sdmobile.runtimes.mlprogram.weights import Stored, Weights
    from sdmobile.validate.bisect.graph import ModuleNames

_WEIGHTS = {
    *("conv.weight", "conv_transpose.weight", "linear.weight", "matmul.x", "matmul.y", "gather.x", "einsum.values"),
    *("batch_norm.gamma", "layer_norm.gamma", "instance_norm.gamma", "mul.x", "mul.y"),
}
_BIASES = {
    *("conv.bias", "conv_transpose.bias", "linear.bias", "add.x", "add.y"),
    *("batch_norm.beta", "layer_norm.beta", "instance_norm.beta"),
}
# Whose epsilon is the converter's own: an affine map in disguise, whose variance is 1, and what a norm that is written
# out takes of a sum to which it has added its own.
_CONVERTERS_OWN = ("batch_norm", "inverse", "rsqrt")
_TRANSPOSED = (1, 0)


def read_package(path: Path, names: ModuleNames) -> FileConstants:
    """Returns the floating-point constants of a package, of all its functions.

    Args:
        path: the `.mlpackage` folder.
        names: of the component's modules.
    """
    arrays: list[StoredArray] = []
    scalars: list[Epsilon] = []
    for function in function_names(path):
        package, program = read_program(path, function)
        weights, users = open_weights(package), _users(program)
        for name, stored in named_constants(program):
            kind = type_of(stored)
            taken = users.get(name, [])
            if kind.dtype not in FLOATS or all(op.type.startswith("constexpr_") for op, _ in taken):
                continue  # what nobody takes, and what only a decoder takes, is no weight
            taking = [names.of_identifier(op.outputs[0].name) for op, _ in taken]
            modules = belongs_to(names.of_identifier(name), taking, names)
            if kind.elements > 1:
                arrays.append(_array(name, stored, modules, taken, weights))
            else:
                value = float(np.asarray(weights.array(stored), np.float64).reshape(-1)[0])
                scalars += [
                    Epsilon(f"{parameter} of {op.name}", modules, value, parameter == "epsilon")
                    for op, parameter in taken
                    if parameter != "epsilon" or op.type not in _CONVERTERS_OWN
                ]
    return FileConstants(tuple(arrays), tuple(scalars))


def _users(program: Function) -> dict[str, list[tuple[Operation, str]]]:
    users: dict[str, list[tuple[Operation, str]]] = {}
    for operation in program.every_operation():
        for parameter, bindings in operation.inputs.items():
            for binding in bindings:
                if isinstance(binding, str):
                    users.setdefault(binding, []).append((operation, parameter))
    return users


def _array(
    name: str, stored: Stored, modules: frozenset[str], users: list[tuple[Operation, str]], weights: Weights
) -> StoredArray:
    roles = {f"{op.type}.{parameter}" for op, parameter in users}
    uses = {Use.WEIGHT if r in _WEIGHTS else Use.BIAS if r in _BIASES else Use.OTHER for r in roles}
    orders = {_order(op, parameter) for op, parameter in users}
    return StoredArray(
        name,
        modules,
        frozenset(uses),
        frozenset(orders),
        type_of(stored).sizes,
        _coding(stored, weights),
        lambda: np.asarray(weights.array(stored), np.float32),
    )


def _order(operation: Operation, parameter: str) -> tuple[int, ...]:
    """Returns how a matrix [out, in] of PyTorch lies in an operand of an operation."""
    if operation.type != "matmul":
        return NATURAL
    flag = operation.inputs.get(f"transpose_{parameter}", (None,))[0]
    transposed = isinstance(flag, Constant) and bool(np.asarray(flag.value).reshape(-1)[0])
    return NATURAL if transposed == (parameter == "y") else _TRANSPOSED


def _coding(stored: Stored, weights: Weights) -> Coding:
    if not isinstance(stored, CompressedOutput):
        return Float(16 if stored.type.dtype == "float16" else 32)
    arguments = stored.source.arguments
    if "lut" in arguments:
        table = weights.array(arguments["lut"])
        tables = 1 if table.ndim == 1 else int(np.prod(table.shape[:-2]))
        return Palette(tables, (table.size // tables).bit_length() - 1)
    if "scale" in arguments:
        return _steps(arguments, weights)
    return Float(16)


def _steps(arguments: Any, weights: Weights) -> Steps:
    """Returns the coding of iOS 18's blocks of integers, or of iOS 16's integers along an axis."""
    scale: NDArray[Any] = np.abs(np.asarray(weights.array(arguments["scale"]), np.float32))
    data = arguments.get("data") or arguments["quantized_data"]
    shape = data.type.sizes
    bits = 4 if data.type.dtype in ("int4", "uint4") else 8
    if "axis" in arguments and scale.ndim == 1:
        axis = int(np.asarray(arguments["axis"].value).reshape(-1)[0]) % len(shape)
        scale = scale.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    for axis, (length, blocks) in enumerate(zip(shape, scale.shape, strict=True) if scale.ndim else ()):
        if blocks not in (1, length):
            scale = np.repeat(scale, length // blocks, axis)
    zero = arguments.get("offset") or arguments.get("zero_point")
    offset = zero is not None and bool(np.any(np.asarray(weights.array(zero)) != 0))
    return Steps(scale, bits, offset)
