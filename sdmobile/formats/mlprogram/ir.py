"""The program of a package as typed values: what is computed, without knowing how.

Beside it what an app sees of a function (`Feature`): names, element types and the shapes that an input may have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sdmobile.errors import UnsupportedError
from sdmobile.formats.mlprogram.errors import InputError, PackageError
from sdmobile.formats.mlprogram.types import ARRAY_TYPES, NamedType
from sdmobile.formats.mlprogram.values import Constant, constant, tensor_type

_PROGRAM_ATTRIBUTES = {"buildInfo"}  # names of the tools that wrote the file
OPSETS = {"CoreML5": 15, "CoreML6": 16, "CoreML7": 17, "CoreML8": 18, "CoreML9": 26}
"""Name of an operation set to the iOS version that brought it."""

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
    """One function of a program.

    Args:
        name: its name; "main" if the program has only one.
        specification_version: format version of the file; 7, 8 and 9 are iOS 16, 17 and 18.
        ios: the iOS version whose operation definitions apply.
        inputs: names and types of the inputs.
        outputs: names and types of the outputs.
        operations: in an order in which they can run.
        features: the inputs as the app sees them, with the shapes they may have.
    """

    name: str
    specification_version: int
    ios: int
    inputs: tuple[NamedType, ...]
    outputs: tuple[NamedType, ...]
    operations: tuple[Operation, ...]
    features: dict[str, Feature]


def function_names(model: dict[str, Any]) -> tuple[str, ...]:
    """Returns the names of the functions in a decoded Model message, the default one first."""
    default = model.get("description", {}).get("defaultFunctionName", "") or "main"
    functions = model.get("mlProgram", {}).get("functions", {})
    return tuple(sorted(functions, key=lambda name: (name != default, name)))


def build(model: dict[str, Any], name: str | None = None) -> Function:
    """Builds one function from a decoded Model message.

    Args:
        model: what `wire.decode` returned for "Model".
        name: the function; by default the one that the file names as default, or "main".

    Returns:
        The function.

    Raises:
        PackageError: the file contradicts itself.
        InputError: there is no function of this name.
        UnsupportedError: the model is not an ML Program.
    """
    if "mlProgram" not in model:
        raise UnsupportedError("The Core ML evaluator runs ML Programs", "the file holds no ML Program")
    program = model["mlProgram"]
    _only(program.get("attributes", {}), _PROGRAM_ATTRIBUTES, "attributes of the program")
    name = _chosen(model, name)
    function = program["functions"][name]
    opset, block = _block(function)
    operations = tuple(_operation(operation) for operation in block.get("operations", []))
    inputs = tuple(_named_type(item) for item in function.get("inputs", []))
    types = {item.name: item.type for item in inputs}
    types.update((out.name, out.type) for operation in operations for out in operation.outputs)
    unknown = [output for output in block.get("outputs", []) if output not in types]
    if unknown:
        raise PackageError("Every output of the program must be computed in it", unknown, "Export the model again")
    outputs = tuple(NamedType(output, types[output]) for output in block.get("outputs", []))
    description = _description(model, name)
    features = tuple(feature(item) for item in description.get("input", []))
    check_features(features, inputs)
    check_features(tuple(feature(item) for item in description.get("output", [])), outputs)
    version = model.get("specificationVersion", 0)
    return Function(name, version, OPSETS[opset], inputs, outputs, operations, {item.name: item for item in features})


def _chosen(model: dict[str, Any], name: str | None) -> str:
    names = function_names(model)
    if not names:
        raise PackageError("A program must have a function", "none", "Export the model again")
    if name is not None and name not in names:
        raise InputError("The function must be one of the program", name, f"Choose from {', '.join(names)}")
    default = model.get("description", {}).get("defaultFunctionName", "") or "main"
    if name is None and default not in names:
        raise InputError("A function must be chosen", f"none is called {default}", f"Choose from {', '.join(names)}")
    return name or default


def _block(function: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Returns the operation set of a function and the block written for it."""
    _only(function.get("attributes", {}), set(), "attributes of the function")
    opset = function.get("opset", "")
    if opset not in OPSETS:
        raise UnsupportedError("The Core ML evaluator knows the operation sets CoreML5 to CoreML9", opset)
    if opset not in function.get("block_specializations", {}):
        raise PackageError("The function must have a block for its operation set", opset, "Export the model again")
    block = function["block_specializations"][opset]
    _only(block.get("attributes", {}), set(), "attributes of the block")
    return opset, block


def _description(model: dict[str, Any], name: str) -> dict[str, Any]:
    """Returns the description of a function: its own in a file of several, else that of the model."""
    description = model.get("description", {})
    functions = description.get("functions", [])
    if not functions:
        return description
    named = [item for item in functions if item.get("name", "") == name]
    if len(named) != 1:
        raise PackageError("Every function must be described once", name, "Export the model again")
    return named[0]


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


@dataclass(frozen=True)
class Feature:
    """One described input or output.

    Args:
        name: its name.
        dtype: element type.
        shape: the shape, or the default among several; () if the file gives none.
        enumerated: the shapes allowed besides, if they are listed.
        ranges: smallest and largest size of each axis, None for no limit, if they are given as ranges.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    enumerated: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[tuple[int, int | None], ...] = ()

    @property
    def flexible(self) -> bool:
        """Whether more than one shape is allowed."""
        return bool(self.enumerated or self.ranges)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises InputError unless a flexible input may have this shape."""
        if self.enumerated and shape not in (self.shape, *self.enumerated):
            allowed = ", ".join(str(list(each)) for each in self.enumerated)
            raise InputError(f"Input '{self.name}' must have one of the listed shapes", list(shape), f"Give {allowed}")
        if self.ranges and not self._in_ranges(shape):
            limits = ", ".join(f"{low} to {'any' if high is None else high}" for low, high in self.ranges)
            raise InputError(f"Input '{self.name}' must have sizes in their ranges", list(shape), f"Give {limits}")

    def _in_ranges(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == len(self.ranges) and all(
            low <= size and (high is None or size <= high) for size, (low, high) in zip(shape, self.ranges, strict=True)
        )


def feature(message: dict[str, Any]) -> Feature:
    """Builds a feature from a decoded FeatureDescription message."""
    array = message.get("type", {}).get("multiArrayType", {})
    listed = array.get("enumeratedShapes", {}).get("shapes", [])
    ranges = array.get("shapeRange", {}).get("sizeRanges", [])
    return Feature(
        message.get("name", ""),
        ARRAY_TYPES.get(array.get("dataType", 0), "unknown"),
        tuple(array.get("shape", ())),
        tuple(tuple(each.get("shape", ())) for each in listed),
        tuple((each.get("lowerBound", 0), _upper(each.get("upperBound", 0))) for each in ranges),
    )


def _upper(bound: int) -> int | None:
    """Returns an upper bound; the format writes "no limit" as a negative number."""
    return None if bound < 0 else bound


def check_features(features: tuple[Feature, ...], values: tuple[NamedType, ...]) -> None:
    """Checks that the description, which the app sees, agrees with the program.

    Raises:
        PackageError: a name, element type or shape differs.
    """
    described = {item.name: item for item in features}
    for value in values:
        feature = described.pop(value.name, Feature(value.name, "missing"))
        # A described scalar has the shape (1), and outputs of older files are described without a shape.
        shape = () if feature.shape == (1,) and not value.type.shape else feature.shape
        if feature.dtype != value.type.dtype or (shape and not value.type.fits(shape)):
            raise PackageError(
                f"The description of '{value.name}' must agree with the program",
                f"{feature.dtype}{list(feature.shape)} described, {value.type} computed",
                "Export the model again",
            )
    if described:
        raise PackageError("The program must have every described value", sorted(described), "Export the model again")
