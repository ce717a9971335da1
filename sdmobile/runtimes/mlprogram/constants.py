"""The constants of a package by name, those included that an operation decodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdmobile.runtimes.mlprogram.constexpr import decoder
from sdmobile.runtimes.mlprogram.precision import rounding
from sdmobile.runtimes.mlprogram.weights import Compressed, CompressedOutput, Weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdmobile.formats.mlprogram.ir import Function
    from sdmobile.formats.mlprogram.package import Package
    from sdmobile.formats.mlprogram.types import TensorType
    from sdmobile.runtimes.mlprogram.weights import Stored


def open_weights(package: Package) -> Weights:
    """Returns what decodes a package's constants as an iPhone would; nothing decoded is kept."""
    return Weights(package, rounding("float16-float32acc"), cache_bytes=0)


def named_constants(program: Function) -> Iterator[tuple[str, Stored]]:
    """Yields the constants of a function by name, those included that an operation decodes."""
    values: dict[str, Stored] = {}
    for operation in program.every_operation():
        name = operation.outputs[0].name
        if operation.type == "const":
            values[name] = operation.attributes["val"]
        elif (decode := decoder(operation.type, program.ios)) is not None:
            bound = {parameter: bindings[0] for parameter, bindings in operation.inputs.items()}
            inputs = {p: values.get(b) if isinstance(b, str) else b for p, b in bound.items()}
            arguments = {p: value for p, value in inputs.items() if value is not None}
            values[name] = CompressedOutput(Compressed(operation, decode, {**operation.attributes, **arguments}), 0)
        else:
            continue
        yield name, values[name]


def type_of(stored: Stored) -> TensorType:
    """Returns the type that a program declares for a constant."""
    if isinstance(stored, CompressedOutput):
        return stored.source.operation.outputs[stored.index].type
    return stored.type
