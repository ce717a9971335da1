"""The layers of an ML Program that can compute with eight-bit activations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sdmobile.formats.mlprogram.constants import WeightConstant, weight_constants
from sdmobile.formats.mlprogram.modules import module_near
from sdmobile.formats.mlprogram.read import read_program
from sdmobile.formats.mlprogram.types import FLOATS
from sdmobile.quantize.recipes import Recipe
from sdmobile.quantize.schemes import W8A8

if TYPE_CHECKING:
    from sdmobile.formats.mlprogram.ir import Function, Operation

Kind = Literal["convolution", "attention"]

_WITH_WEIGHTS = {"conv", "linear"}
_PRODUCTS = {"matmul": ("x", "y"), "einsum": ("values",)}


@dataclass(frozen=True)
class Layer:
    """What is quantised or left alone as a whole.

    Args:
        name: path of its module with underscores for dots; the name of its operation if that is not known.
        kind: "convolution", linear layers included, or "attention", all products of one attention.
        operations: names of its operations in the order of the program.
        activations: names of the values that they take.
        weights: names of the constants that hold their weights; none for an attention.
        scheme: with the gates.
    """

    name: str
    kind: Kind
    operations: tuple[str, ...]
    activations: tuple[str, ...]
    weights: tuple[str, ...]
    scheme: W8A8

    @property
    def gate_db(self) -> float:
        """PSNR in dB that the component's output must keep when this layer alone is quantised."""
        return self.scheme.conv_psnr if self.kind == "convolution" else self.scheme.attention_psnr


def find_layers(path: Path, recipe: Recipe, component: str) -> tuple[Layer, ...]:
    """Returns the layers that a recipe wants in W8A8, in the order of the program.

    Args:
        path: the `.mlpackage` folder, uncompressed.
        recipe: which modules.
        component: canonical name, for the recipe's patterns.
    """
    program = read_program(path)[1]
    constants = {c.name: c for c in weight_constants(path)}
    floats = _float_values(program)
    layers: list[Layer] = []
    products: dict[str, list[Operation]] = {}
    for index, operation in enumerate(program.operations):
        if operation.type in _WITH_WEIGHTS:
            layer = _with_weights(operation, constants, floats, recipe, component)
            layers += [layer] if layer else []
        elif operation.type in _PRODUCTS and set(operands(operation)) <= floats and len(operands(operation)) == 2:
            module = module_near(program.operations, index) or operation.name
            products.setdefault(module, []).append(operation)
    for module, group in products.items():
        scheme = recipe.scheme_for(component, module, recipe.min_elements)
        if isinstance(scheme, W8A8):
            layers.append(_attention(module, group, scheme))
    order = {operation.name: index for index, operation in enumerate(program.operations)}
    return tuple(sorted(layers, key=lambda layer: order[layer.operations[0]]))


def operands(operation: Operation) -> tuple[str, ...]:
    """Returns the names of the values that an operation multiplies, constants with a name included."""
    names = _PRODUCTS.get(operation.type, ("x",))
    return tuple(b for name in names for b in operation.inputs.get(name, ()) if isinstance(b, str))


def value_types(program: Function) -> dict[str, str]:
    """Returns the element type of every value of a program, constants included."""
    types = {item.name: item.type.dtype for item in program.inputs}
    types.update((out.name, out.type.dtype) for operation in program.operations for out in operation.outputs)
    return types


def _float_values(program: Function) -> set[str]:
    """Returns the values of floating type that are computed, so not constants."""
    constants = {
        out.name
        for operation in program.operations
        if operation.type == "const" or operation.type.startswith("constexpr_")
        for out in operation.outputs
    }
    return {name for name, dtype in value_types(program).items() if dtype in FLOATS} - constants


def _with_weights(
    operation: Operation, constants: dict[str, WeightConstant], floats: set[str], recipe: Recipe, component: str
) -> Layer | None:
    weight, taken = operation.inputs["weight"][0], operands(operation)
    if not isinstance(weight, str) or weight not in constants or not taken or not set(taken) <= floats:
        return None
    constant = constants[weight]
    scheme = recipe.scheme_for(component, constant.module, constant.elements, constant.is_linear)
    if not isinstance(scheme, W8A8):
        return None
    name = constant.module or operation.name
    return Layer(name, "convolution", (operation.name,), taken, (weight,), scheme)


def _attention(module: str, group: list[Operation], scheme: W8A8) -> Layer:
    taken = dict.fromkeys(name for operation in group for name in operands(operation))
    return Layer(module, "attention", tuple(operation.name for operation in group), tuple(taken), (), scheme)
