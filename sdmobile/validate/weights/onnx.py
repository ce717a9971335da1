"""Reads the constants of an ONNX file."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.validate.weights.stored import NATURAL, Epsilon, FileConstants, Float, StoredArray, Use, belongs_to

if TYPE_CHECKING:
    from pathlib import Path

    from sdmobile.validate.bisect.graph import ModuleNames

_SCOPES = "pkg.torch.onnx.name_scopes"
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "LayerNormalization", "InstanceNormalization", "GroupNormalization")
_TRANSPOSED = (1, 0)
_FLOATS = {1: 32, 10: 16}


def read_file(path: Path, names: ModuleNames) -> FileConstants:
    """Returns the floating-point initialisers of a file, those in a file beside it too.

    Args:
        path: the `.onnx` file.
        names: of the component's modules.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(path))
    users: dict[str, list[tuple[Any, int]]] = {}
    scalars: list[Epsilon] = []
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            users.setdefault(name, []).append((node, place))
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                modules = frozenset(filter(None, [_module(node, names)]))
                scalars.append(Epsilon(f"epsilon of {node.name}", modules, float(attribute.f), True))
    arrays: list[StoredArray] = []
    for tensor in model.graph.initializer:
        shape = tuple(tensor.dims)
        taken = users.get(tensor.name, [])
        if tensor.data_type not in _FLOATS or int(np.prod(shape)) < 2 or not taken:
            continue
        arrays.append(
            StoredArray(
                tensor.name,
                _modules(tensor.name, taken, names),
                frozenset(_use(node.op_type, place) for node, place in taken),
                frozenset(_order(node, place) for node, place in taken),
                shape,
                Float(_FLOATS[tensor.data_type]),
                lambda tensor=tensor: numpy_helper.to_array(tensor).astype(np.float32),
            )
        )
    return FileConstants(tuple(arrays), tuple(scalars))


def _modules(name: str, taken: list[tuple[Any, int]], names: ModuleNames) -> frozenset[str]:
    return belongs_to(names.of_path(name.rpartition(".")[0]), [_module(node, names) for node, _ in taken], names)


def _module(node: Any, names: ModuleNames) -> str | None:
    """Returns the module of a node: the innermost scope that PyTorch noted, or the path in the node's name."""
    for item in node.metadata_props:
        if item.key == _SCOPES:
            paths = [names.of_path(str(scope)) for scope in ast.literal_eval(item.value)]
            return next(filter(None, reversed(paths)), None)
    return names.of_path(".".join(node.name.strip("/").split("/")[:-1]))


def _use(op: str, place: int) -> Use:
    if op in _PRODUCTS:
        return {1: Use.WEIGHT, 2: Use.BIAS}.get(place, Use.OTHER)
    return {"MatMul": Use.WEIGHT, "Mul": Use.WEIGHT, "Gather": Use.WEIGHT, "Add": Use.BIAS}.get(op, Use.OTHER)


def _order(node: Any, place: int) -> tuple[int, ...]:
    """Returns how a matrix [out, in] of PyTorch lies in an operand of a node."""
    if node.op_type == "MatMul":
        return _TRANSPOSED if place == 1 else NATURAL
    if node.op_type == "Gemm":
        flags = {attribute.name: attribute.i for attribute in node.attribute}
        return NATURAL if (place == 1) == bool(flags.get("transB" if place == 1 else "transA")) else _TRANSPOSED
    return NATURAL
