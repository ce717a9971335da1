"""Reads what is in a `.tflite` file: operators, ranks, types."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Tensors of higher rank, and this operator, are refused by the GPU accelerator of LiteRT.
MAX_GPU_RANK = 4
REFUSED_BY_GPU = ("BROADCAST_TO",)


@dataclass(frozen=True)
class FileFacts:
    """What a `.tflite` file consists of.

    Args:
        operators: number of each operator in all subgraphs.
        max_rank: highest rank of a tensor.
        tensor_types: number of tensors of each element type.
    """

    operators: dict[str, int]
    max_rank: int
    tensor_types: dict[str, int]

    def gpu_objections(self) -> tuple[str, ...]:
        """Returns why the Android GPU would refuse the file; empty if nothing known speaks against it."""
        objections = [
            f"{self.operators[name]} {name} operators, which the GPU refuses"
            for name in REFUSED_BY_GPU
            if name in self.operators
        ]
        if self.max_rank > MAX_GPU_RANK:
            objections.append(f"a tensor of rank {self.max_rank}; the GPU takes rank {MAX_GPU_RANK} at most")
        return tuple(objections)


def read_facts(path: Path) -> FileFacts:
    """Returns what the file consists of; the weights are not read."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils, mmap_utils

    model: Any = schema.Model.GetRootAs(mmap_utils.get_file_contents(path), 0)
    operator_names = _names(schema.BuiltinOperator)
    type_names = _names(schema.TensorType)
    operators: Counter[str] = Counter()
    types: Counter[str] = Counter()
    max_rank = 0
    for graph in (model.Subgraphs(i) for i in range(model.SubgraphsLength())):
        for i in range(graph.OperatorsLength()):
            code = model.OperatorCodes(graph.Operators(i).OpcodeIndex())
            operators[operator_names[flatbuffer_utils.get_builtin_code_from_operator_code(code)]] += 1
        for i in range(graph.TensorsLength()):
            tensor = graph.Tensors(i)
            types[type_names[tensor.Type()]] += 1
            max_rank = max(max_rank, tensor.ShapeLength())
    return FileFacts(dict(operators), max_rank, dict(types))


def _names(enum: type) -> dict[int, str]:
    """Returns the names of a flatbuffer enumeration by value."""
    return {value: name for name, value in vars(enum).items() if isinstance(value, int)}
