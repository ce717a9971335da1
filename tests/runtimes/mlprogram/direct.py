"""One operation without a package: what coremltools computes for it, and what the evaluator's function does."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sdmobile.formats.mlprogram.types import NamedType, TensorType
from sdmobile.runtimes.mlprogram.ops.registry import Context
from sdmobile.runtimes.mlprogram.ops.table import operations
from sdmobile.runtimes.mlprogram.precision import Precision, rounding
from tests.runtimes.mlprogram.support import builder, prepare_coremltools

IOS = {16: "iOS16", 17: "iOS17", 18: "iOS18"}


def infer(kind: str, attributes: dict[str, Any], ios: int) -> list[np.ndarray]:
    """Returns what coremltools computes for an operation on constants."""
    from coremltools.converters.mil.mil import Function

    ct = prepare_coremltools()
    with Function({}, opset_version=getattr(ct.target, IOS[ios])):
        result = getattr(builder(), kind)(**attributes)
        results = result if isinstance(result, (list, tuple)) else [result]
        return [np.asarray(each.val) for each in results]


def _tensor(value: Any) -> torch.Tensor:
    array = np.asarray(value)
    if array.dtype.kind == "f":
        return torch.from_numpy(array.astype(np.float32))
    return torch.from_numpy(array if array.dtype == bool else array.astype(np.int32))


def evaluate(
    kind: str, attributes: dict[str, Any], ios: int, results: list[np.ndarray], precision: Precision = "float32"
) -> list[np.ndarray]:
    """Returns what the evaluator computes with the same parameters, declared to be of the types of `results`."""
    op = operations()[kind]
    arguments: dict[str, Any] = {}
    for name, value in attributes.items():
        parameter = op.parameters[name].kind
        if parameter == "list[Tensor]":
            arguments[name] = [_tensor(each) for each in value]
        else:
            arguments[name] = _tensor(value) if parameter == "Tensor" else value
    if op.takes_context:
        outputs = tuple(NamedType("y", TensorType(str(each.dtype), each.shape)) for each in results)
        arguments["context"] = Context(kind, "test", ios, rounding(precision), outputs)
    with torch.inference_mode():
        computed = op.function(**arguments)
    return [each.numpy() for each in (computed if isinstance(computed, list) else [computed])]
