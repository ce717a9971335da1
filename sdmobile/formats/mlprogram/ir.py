"""The program of a package as typed values: what is computed, without knowing how."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sdmobile.errors import UnsupportedError
from sdmobile.formats.mlprogram.classifier import Classifier, split_classifier
from sdmobile.formats.mlprogram.errors import InputError, PackageError
from sdmobile.formats.mlprogram.features import Feature, check_features, feature, state_feature
from sdmobile.formats.mlprogram.types import NamedType
from sdmobile.formats.mlprogram.values import Constant, constant, tensor_type

_PROGRAM_ATTRIBUTES = {"buildInfo"}  # names of the tools that wrote the file
OPSETS = {"CoreML5": 15, "CoreML6": 16, "CoreML7": 17, "CoreML8": 18, "CoreML9": 26}
"""Name of an operation set to the iOS version that brought it."""

Binding = str | Constant
"""The name of a value computed before, or a constant."""


@dataclass(frozen=True)
class Block:
    """A part of a program that an operation runs: a branch, a condition or the body of a loop.

    Args:
        inputs: names and types of what the operation gives it.
        outputs: names of what it returns; like its operations, it may use values from around it.
        operations: in an order in which they can run.
    """

    inputs: tuple[NamedType, ...]
    outputs: tuple[str, ...]
    operations: tuple[Operation, ...]


@dataclass(frozen=True)
class Operation:
    """One operation.

    Args:
        name: unique name.
        type: for example "conv".
        inputs: parameter name to bindings; most parameters have one.
        outputs: names and types of the results.
        attributes: parameters given as constants, without the name.
        blocks: what control flow runs.
    """

    name: str
    type: str
    inputs: dict[str, tuple[Binding, ...]]
    outputs: tuple[NamedType, ...]
    attributes: dict[str, Constant]
    blocks: tuple[Block, ...] = ()

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
        outputs: names and types of the tensors that it returns; of a classifier, the probabilities are the last.
        operations: in an order in which they can run.
        features: the inputs as the app sees them, with the shapes they may have.
        results: the outputs as the app sees them; those of a classifier are not among them.
        states: what is kept from one call to the next; `write_state` gives a state its new value under the same name.
        classifier: what an app sees in place of the probabilities, if the model names classes.
    """

    name: str
    specification_version: int
    ios: int
    inputs: tuple[NamedType, ...]
    outputs: tuple[NamedType, ...]
    operations: tuple[Operation, ...]
    features: dict[str, Feature]
    results: dict[str, Feature]
    states: tuple[NamedType, ...] = ()
    classifier: Classifier | None = None

    def every_operation(self) -> Iterator[Operation]:
        """Yields all operations, those of blocks before the one that runs them."""
        return _every(self.operations)


def _every(operations: tuple[Operation, ...]) -> Iterator[Operation]:
    for operation in operations:
        for block in operation.blocks:
            yield from _every(block.operations)
        yield operation


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
    messages, classifier = split_classifier(block.get("operations", []))
    given, states = _inputs(function)
    operations = tuple(_operation(message, states) for message in messages)
    outputs = _outputs(block, {*given, *_results(operations)}, classifier)
    described = _description(model, name)
    features = tuple(feature(item) for item in described.get("input", []))
    check_features(features, given)
    check_features([state_feature(item) for item in described.get("state", [])], states)
    hidden = classifier.outputs if classifier else ()
    results = [feature(item) for item in described.get("output", []) if item.get("name", "") not in hidden]
    check_features(results, outputs[:-1] if classifier else outputs)
    return Function(
        name,
        model.get("specificationVersion", 0),
        OPSETS[opset],
        given,
        outputs,
        operations,
        {item.name: item for item in features},
        {item.name: item for item in results},
        states,
        classifier,
    )


def _inputs(function: dict[str, Any]) -> tuple[tuple[NamedType, ...], tuple[NamedType, ...]]:
    """Returns the tensors that a function takes, and its states."""
    inputs, states = [], []
    for item in function.get("inputs", []):
        wrapped = item.get("type", {}).get("stateType", {}).get("wrappedType")
        if wrapped is None:
            inputs.append(_named_type(item))
        else:
            states.append(_named_type({"name": item.get("name", ""), "type": wrapped}))
    return tuple(inputs), tuple(states)


def _results(operations: tuple[Operation, ...]) -> Iterator[NamedType]:
    return (output for operation in operations for output in operation.outputs)


def _outputs(block: dict[str, Any], values: set[NamedType], classifier: Classifier | None) -> tuple[NamedType, ...]:
    """Returns the tensors that a block gives, of a classifier the probabilities last."""
    types = {item.name: item.type for item in values}
    names = list(block.get("outputs", []))
    if classifier is not None:
        names = [name for name in names if name not in classifier.outputs] + [classifier.probabilities]
    unknown = [name for name in names if name not in types]
    if unknown:
        raise PackageError("Every output of the program must be computed in it", unknown, "Export the model again")
    return tuple(NamedType(name, types[name]) for name in names)


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


def _operation(message: dict[str, Any], states: tuple[NamedType, ...]) -> Operation:
    type_ = message.get("type", "")
    outputs = tuple(_named_type(item) for item in message.get("outputs", []))
    if type_ == "write_state" and not outputs:
        written = message.get("inputs", {}).get("input", {}).get("arguments", [{}])[0].get("name")
        outputs = tuple(state for state in states if state.name == written)
    if not outputs:
        raise PackageError("Every operation must have an output", type_, "Export the model again")
    attributes = {name: constant(value) for name, value in message.get("attributes", {}).items()}
    label = attributes.pop("name", None)
    name = label.value if label is not None and isinstance(label.value, str) else outputs[0].name
    inputs = {}
    for parameter, argument in message.get("inputs", {}).items():
        inputs[parameter] = tuple(_binding(binding) for binding in argument.get("arguments", []))
    blocks = tuple(_inner(block, states) for block in message.get("blocks", []))
    return Operation(name, type_, inputs, outputs, attributes, blocks)


def _inner(message: dict[str, Any], states: tuple[NamedType, ...]) -> Block:
    _only(message.get("attributes", {}), set(), "attributes of a block")
    inputs = tuple(_named_type(item) for item in message.get("inputs", []))
    operations = tuple(_operation(each, states) for each in message.get("operations", []))
    return Block(inputs, tuple(message.get("outputs", [])), operations)


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
