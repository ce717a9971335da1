"""Reads what is in a `.tflite` file: operators, composites, ranks, types, the largest intermediate tensor."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMPOSITE = "STABLEHLO_COMPOSITE"
_ELEMENT_BYTES = {"FLOAT32": 4, "INT32": 4, "UINT32": 4, "FLOAT16": 2, "INT16": 2, "INT64": 8, "FLOAT64": 8}


@dataclass(frozen=True)
class FileFacts:
    """What the graphs of a `.tflite` file's signatures consist of.

    The decompositions of composites are subgraphs of their own and not counted: a runtime that knows the composite
    never looks at them.

    Args:
        operators: number of each operator; a composite counts under its own name, such as `odml.group_norm`.
        max_rank: highest rank of a tensor.
        tensor_types: number of tensors of each element type.
        largest_intermediate: bytes of the largest tensor that an operator writes, in the file's element types.
        decomposed: operators of all decompositions, for runtimes that do not know the composites.
    """

    operators: dict[str, int]
    max_rank: int
    tensor_types: dict[str, int]
    largest_intermediate: int = 0
    decomposed: int = 0


@dataclass(frozen=True)
class _Operator:
    """An operator's name, the tensors that it writes, and the subgraph that decomposes it."""

    name: str
    outputs: tuple[int, ...]
    decomposition: int | None = None


def read_facts(path: Path) -> FileFacts:
    """Returns what the file consists of; the weights are not read."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import mmap_utils

    model: Any = schema.Model.GetRootAs(mmap_utils.get_file_contents(path), 0)
    type_names = _names(schema.TensorType)
    graphs = [(graph, list(_operators(model, graph))) for graph in map(model.Subgraphs, range(model.SubgraphsLength()))]
    inner = {op.decomposition for _, operators in graphs for op in operators if op.decomposition is not None}
    names: Counter[str] = Counter()
    types: Counter[str] = Counter()
    max_rank = largest = 0
    for graph, operators in (pair for index, pair in enumerate(graphs) if index not in inner):
        names.update(op.name for op in operators)
        tensors = [graph.Tensors(i) for i in range(graph.TensorsLength())]
        types.update(type_names[tensor.Type()] for tensor in tensors)
        max_rank = max([max_rank, *(tensor.ShapeLength() for tensor in tensors)])
        written = (tensors[i] for op in operators for i in op.outputs)
        largest = max([largest, *(_bytes(tensor, type_names) for tensor in written)])
    decomposed = sum(len(graphs[index][1]) for index in inner)
    return FileFacts(dict(names), max_rank, dict(types), largest, decomposed)


def _operators(model: Any, graph: Any) -> Iterator[_Operator]:
    """Yields the operators of a subgraph in the order of execution."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    builtin = _names(schema.BuiltinOperator)
    for op in (graph.Operators(i) for i in range(graph.OperatorsLength())):
        code = model.OperatorCodes(op.OpcodeIndex())
        name = builtin[flatbuffer_utils.get_builtin_code_from_operator_code(code)]
        outputs = tuple(op.Outputs(i) for i in range(op.OutputsLength()))
        if name != COMPOSITE:
            yield _Operator(name, outputs)
            continue
        options: Any = schema.StableHLOCompositeOptions()
        options.Init(op.BuiltinOptions2().Bytes, op.BuiltinOptions2().Pos)
        yield _Operator(options.Name().decode(), outputs, options.DecompositionSubgraphIndex())


def _bytes(tensor: Any, type_names: dict[int, str]) -> int:
    """Returns the size of a tensor of static shape."""
    elements = math.prod(int(tensor.Shape(i)) for i in range(tensor.ShapeLength()))
    return elements * _ELEMENT_BYTES.get(type_names[tensor.Type()], 1)


def _names(enum: type) -> dict[int, str]:
    """Returns the names of a flatbuffer enumeration by value."""
    return {value: name for name, value in vars(enum).items() if isinstance(value, int)}
