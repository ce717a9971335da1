"""The program of a package as typed values: what is computed, without knowing how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sdmobile.errors import UnsupportedError
from sdmobile.validate.mlprogram.errors import PackageError
from sdmobile.validate.mlprogram.types import ARRAY_TYPES, NamedType
from sdmobile.validate.mlprogram.values import Constant, constant, tensor_type

_PROGRAM_ATTRIBUTES = {"buildInfo"}  # names of the tools that wrote the file
_OPSETS = {"CoreML5": 15, "CoreML6": 16, "CoreML7": 17, "CoreML8": 18, "CoreML9": 26}


Binding = str | Constant
"""The name of a value computed before, or a constant."""


@dataclass(frozen=True)
class Operation:
    """One operation.

    Args:
        name: unique name.
        type: for example "conv".
        inputs: parameter name to bindings; most parameters have one.
        outputs: names and types of the results.
        attributes: parameters given as constants, without the name.
    """

    name: str
    type: str
    inputs: dict[str, tuple[Binding, ...]]
    outputs: tuple[NamedType, ...]
    attributes: dict[str, Constant]

    @property
    def dtype(self) -> str:
        """Element type of the first output."""
        return self.outputs[0].type.dtype


@dataclass(frozen=True)
class Function:
    """The main function of a program.

    Args:
        specification_version: format version of the file; 7, 8 and 9 are iOS 16, 17 and 18.
        ios: the iOS version whose operation definitions apply.
        inputs: names and types of the inputs.
        outputs: names and types of the outputs.
        operations: in an order in which they can run.
    """

    specification_version: int
    ios: int
    inputs: tuple[NamedType, ...]
    outputs: tuple[NamedType, ...]
    operations: tuple[Operation, ...]


def build(model: dict[str, Any]) -> Function:
    """Builds the main function from a decoded Model message.

    Args:
        model: what `wire.decode` returned for "Model".

    Returns:
        The function.

    Raises:
        PackageError: the file contradicts itself.
        UnsupportedError: the model is not an ML Program with one function "main".
    """
    if "mlProgram" not in model:
        raise UnsupportedError("The Core ML evaluator runs ML Programs", "the file holds no ML Program")
    program = model["mlProgram"]
    _only(program.get("attributes", {}), _PROGRAM_ATTRIBUTES, "attributes of the program")
    functions = program.get("functions", {})
    if set(functions) != {"main"}:
        raise UnsupportedError("The Core ML evaluator runs the only function 'main'", sorted(functions))
    function = functions["main"]
    _only(function.get("attributes", {}), set(), "attributes of the function")
    opset = function.get("opset", "")
    if opset not in _OPSETS:
        raise UnsupportedError("The Core ML evaluator knows the operation sets CoreML5 to CoreML9", opset)
    if opset not in function.get("block_specializations", {}):
        raise PackageError("The function must have a block for its operation set", opset, "Export the model again")
    block = function["block_specializations"][opset]
    _only(block.get("attributes", {}), set(), "attributes of the block")
    operations = tuple(_operation(operation) for operation in block.get("operations", []))
    inputs = tuple(_named_type(item) for item in function.get("inputs", []))
    types = {item.name: item.type for item in inputs}
    types.update((out.name, out.type) for operation in operations for out in operation.outputs)
    unknown = [name for name in block.get("outputs", []) if name not in types]
    if unknown:
        raise PackageError("Every output of the program must be computed in it", unknown, "Export the model again")
    outputs = tuple(NamedType(name, types[name]) for name in block.get("outputs", []))
    description = model.get("description", {})
    _check_interface(description.get("input", []), inputs)
    _check_interface(description.get("output", []), outputs)
    return Function(model.get("specificationVersion", 0), _OPSETS[opset], inputs, outputs, operations)


def _check_interface(features: list[dict[str, Any]], values: tuple[NamedType, ...]) -> None:
    """Checks that the description, which the app sees, agrees with the program."""
    described = {}
    for feature in features:
        array = feature.get("type", {}).get("multiArrayType", {})
        described[feature.get("name", "")] = (
            ARRAY_TYPES.get(array.get("dataType", 0), "unknown"),
            tuple(array.get("shape", ())),
        )
    for value in values:
        dtype, shape = described.pop(value.name, ("missing", ()))
        # A described scalar has the shape (1), and outputs of older files are described without a shape.
        if dtype != value.type.dtype or (shape and shape != (value.type.shape or (1,))):
            raise PackageError(
                f"The description of '{value.name}' must agree with the program",
                f"{dtype}{list(shape)} described, {value.type} computed",
                "Export the model again",
            )
    if described:
        raise PackageError("The program must have every described value", sorted(described), "Export the model again")


def _operation(message: dict[str, Any]) -> Operation:
    type_ = message.get("type", "")
    outputs = tuple(_named_type(item) for item in message.get("outputs", []))
    if not outputs:
        raise PackageError("Every operation must have an output", type_, "Export the model again")
    attributes = {name: constant(value) for name, value in message.get("attributes", {}).items()}
    label = attributes.pop("name", None)
    name = label.value if label is not None and isinstance(label.value, str) else outputs[0].name
    inputs = {}
    for parameter, argument in message.get("inputs", {}).items():
        inputs[parameter] = tuple(_binding(binding) for binding in argument.get("arguments", []))
    return Operation(name, type_, inputs, outputs, attributes)


def _binding(message: dict[str, Any]) -> Binding:
    if ("name" in message) == ("value" in message):
        raise PackageError("An argument must be a name or a value", sorted(message), "Export the model again")
    return message["name"] if "name" in message else constant(message["value"])


def _named_type(message: dict[str, Any]) -> NamedType:
    return NamedType(message.get("name", ""), tensor_type(message.get("type", {})))


def _only(present: dict[str, Any], known: set[str], what: str) -> None:
    unknown = sorted(set(present) - known)
    if unknown:
        raise UnsupportedError(f"The Core ML evaluator does not know these {what}", ", ".join(unknown))
