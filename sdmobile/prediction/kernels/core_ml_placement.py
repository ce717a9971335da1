"""Which operations are outside of what is attested for the Neural Engine: a prediction, by the rules of the lint."""

from __future__ import annotations

from typing import Any

import numpy as np

from sdmobile.formats.graph.graph import FileGraph, Operation
from sdmobile.formats.mlprogram import ir
from sdmobile.formats.mlprogram.types import NamedType, TensorType
from sdmobile.formats.mlprogram.values import Constant
from sdmobile.lint.coreml.operations import objections

_NEWEST = 26  # the lint's questions about the iOS version are not asked here


def off_neural_engine(graph: FileGraph) -> dict[int, str]:
    """Returns why an operation is predicted to run elsewhere, by its index.

    Args:
        graph: of an `.mlpackage`.
    """
    found: dict[int, str] = {}
    for index, operation in enumerate(graph.operations):
        reasons = [item.rule for item in objections(_as_read(graph, operation), _NEWEST, None)]
        if reasons:
            found[index] = ", ".join(dict.fromkeys(reasons))
    return found


def _as_read(graph: FileGraph, operation: Operation) -> ir.Operation:
    """The operation as the lint knows it."""
    outputs = tuple(
        NamedType(name, TensorType(graph.tensors[name].dtype, graph.tensors[name].shape)) for name in operation.outputs
    )
    options = {name: _constant(value) for name, value in operation.attributes.items() if not isinstance(value, str)}
    return ir.Operation(operation.name or operation.kind, operation.kind, {}, outputs, options)


def _constant(value: Any) -> Constant:
    array = np.asarray(value)
    return Constant(TensorType(str(array.dtype), array.shape), array)
