"""The float16 weights of a `.tflite` file, and how ai-edge-quantizer (AEQ) makes integers of them.

AEQ takes float32 constants only and crashes on large ones, so that its copy of the model is changed in memory, and one
of its functions is replaced meanwhile.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.errors import UnsupportedError
from sdmobile.formats.tflite.names import first_place
from sdmobile.formats.tflite.reader import read_model
from sdmobile.quantize.litert.rank import keep_ranks

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from sdmobile.formats.tflite.model import Graph, Model, Node
    from sdmobile.quantize.schemes import Linear

_DEQUANTIZE = "DEQUANTIZE"
_WEIGHT_OPERATORS = {
    "CONV_2D": "CONV_2D",
    "DEPTHWISE_CONV_2D": "DEPTHWISE_CONV_2D",
    "EMBEDDING_LOOKUP": "EMBEDDING_LOOKUP",
    "FULLY_CONNECTED": "FULLY_CONNECTED",
    "TRANSPOSE_CONV": "CONV_2D_TRANSPOSE",
}
"""Operators with weights: the schema's name to AEQ's."""
_WEIGHT_INPUT = 1
_BLOCKS = (32, 64, 128, 256)
_AEQ_PIECE = 32 << 20


@dataclass(frozen=True, eq=False)
class TFLiteWeight:
    """A float16 constant that goes through DEQUANTIZE into operators with weights.

    Args:
        name: of the constant in the file.
        module: dotted path of the module of the first operator that uses it.
        operator: AEQ's name of that operator.
        users: indices of the operators that use it.
        values: float16, of the tensor's shape; a view of the file.
        subgraph: index of the subgraph.
        tensor: index of the constant.
        wide: index of what DEQUANTIZE makes of it.
        dequantize: index of that DEQUANTIZE.
    """

    name: str
    module: str
    operator: str
    users: tuple[int, ...]
    values: NDArray[np.float16]
    subgraph: int
    tensor: int
    wide: int
    dequantize: int


def float16_weights(path: Path) -> tuple[TFLiteWeight, ...]:
    """Returns the weights of convolutions, matrix products and tables that a file stores as float16."""
    model = read_model(path)
    sharing = Counter(tensor.buffer for graph in model.graphs for tensor in graph.tensors)
    return tuple(weight for index in range(len(model.graphs)) for weight in _of_subgraph(model, index, sharing))


def _of_subgraph(model: Model, index: int, sharing: Counter[int]) -> Iterator[TFLiteWeight]:
    graph = model.graphs[index]
    users = _users(graph)
    for node in graph.nodes:
        narrow = node.inputs[0] if node.op == _DEQUANTIZE else None
        if narrow is None or narrow.dtype != "FLOAT16" or len(users[narrow.index]) > 1 or sharing[narrow.buffer] > 1:
            continue
        wide, values = node.outputs[0].index, narrow.values()
        uses = users.get(wide, [])
        weight_only = bool(uses) and all(user.op in _WEIGHT_OPERATORS and at == _WEIGHT_INPUT for user, at in uses)
        if values is None or not weight_only or wide in graph.outputs:
            continue
        first = uses[0][0]
        yield TFLiteWeight(
            name=narrow.name,
            module=first_place(first.outputs[0].name),
            operator=_WEIGHT_OPERATORS[first.op],
            users=tuple(dict.fromkeys(user.index for user, _ in uses)),
            values=values,
            subgraph=index,
            tensor=narrow.index,
            wide=wide,
            dequantize=node.index,
        )


def _users(graph: Graph) -> dict[int, list[tuple[Node, int]]]:
    """Returns the operators that take each tensor, with the position at which they do."""
    users: dict[int, list[tuple[Node, int]]] = {}
    for node in graph.nodes:
        for position, tensor in enumerate(node.inputs):
            if tensor is not None:
                users.setdefault(tensor.index, []).append((node, position))
    return users


def expand(model: Any, weights: Iterable[TFLiteWeight]) -> None:
    """Turns some float16 weights into float32 constants and drops their DEQUANTIZE, in AEQ's model of their file.

    The DEQUANTIZE's output tensor becomes the constant under the name of the float16 tensor, which goes.
    """
    for index, subgraph in enumerate(model.subgraphs):
        own = [weight for weight in weights if weight.subgraph == index]
        if not own:
            continue
        for weight in own:
            narrow, wide = subgraph.tensors[weight.tensor], subgraph.tensors[weight.wide]
            wide.name, wide.buffer = narrow.name, narrow.buffer
            wide_values = weight.values.astype(np.float32)
            model.buffers[narrow.buffer].data = wide_values.reshape(-1).view(np.uint8)
        dropped = {weight.dequantize for weight in own}
        subgraph.operators = [op for number, op in enumerate(subgraph.operators) if number not in dropped]
        _drop_tensors(model, index, {weight.tensor for weight in own})


def _drop_tensors(model: Any, index: int, gone: set[int]) -> None:
    """Removes tensors that nothing uses and renumbers the rest."""
    subgraph = model.subgraphs[index]
    kept = [number for number in range(len(subgraph.tensors)) if number not in gone]
    new = {old: number for number, old in enumerate(kept)} | {-1: -1}
    subgraph.tensors = [subgraph.tensors[number] for number in kept]
    subgraph.inputs, subgraph.outputs = _renumbered(subgraph.inputs, new), _renumbered(subgraph.outputs, new)
    for op in subgraph.operators:
        op.inputs, op.outputs = _renumbered(op.inputs, new), _renumbered(op.outputs, new)
        if op.intermediates is not None and len(op.intermediates):
            op.intermediates = _renumbered(op.intermediates, new)
    for signature in model.signatureDefs or []:
        if signature.subgraphIndex == index:
            for entry in [*signature.inputs, *signature.outputs]:
                entry.tensorIndex = new[entry.tensorIndex]


def _renumbered(tensors: Any, new: dict[int, int]) -> list[int]:
    return [new[int(tensor)] for tensor in tensors]


def reason_against(weight: TFLiteWeight, scheme: Linear) -> str | None:
    """Returns why AEQ cannot give a weight this scheme, or None."""
    from ai_edge_quantizer import algorithm_manager, qtyping

    if not scheme.symmetric:
        return "LiteRT's kernels want symmetric integers"
    if scheme.block_size and scheme.block_size not in _BLOCKS:
        return f"blocks have {', '.join(map(str, _BLOCKS))} inputs"
    if scheme.block_size and weight.values.shape[-1] % scheme.block_size:
        return f"{weight.values.shape[-1]} inputs are not a multiple of {scheme.block_size}"
    operation = qtyping.TFLOperationName(weight.operator)
    try:
        algorithm_manager.check_op_quantization_config(
            algorithm_manager.AlgorithmName.MIN_MAX_UNIFORM_QUANT, operation, config(scheme)
        )
    except ValueError:
        return f"{weight.operator} has no kernel for it"
    return None


def config(scheme: Linear) -> Any:
    """Returns AEQ's configuration of a scheme; blocks exist only with activations quantised at run time."""
    from ai_edge_quantizer import qtyping

    kind = f"BLOCKWISE_{scheme.block_size}" if scheme.block_size else "CHANNELWISE"
    integer = scheme.dynamic or bool(scheme.block_size)
    precision = qtyping.ComputePrecision.INTEGER if integer else qtyping.ComputePrecision.FLOAT
    return qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(
            num_bits=scheme.bits, symmetric=True, granularity=qtyping.QuantGranularity(kind)
        ),
        compute_precision=precision,
        explicit_dequantize=not integer,
    )


def quantize_file(source: Path, out: Path, schemes: Mapping[str, Linear], weights: tuple[TFLiteWeight, ...]) -> None:
    """Writes a file with some weights as integers; every other byte of weight stays as it is.

    AEQ takes float32 constants only. They are expanded in its copy of the model in memory and not in a file, since
    the float32 file of a large UNet exceeds the 2 GB of a flatbuffer.

    Args:
        source: a finished `.tflite`.
        out: the file to write.
        schemes: by name of the weight.
        weights: those of `source`; the ones without a scheme stay.
    """
    from ai_edge_quantizer import qtyping, quantizer
    from ai_edge_quantizer.utils.tfl_flatbuffer_utils import get_op_scope

    job = quantizer.Quantizer(str(source))
    model: Any = job._float_model  # pyright: ignore[reportPrivateUsage] (there is no way to hand in a model)
    if any(model.subgraphs[w.subgraph].tensors[w.tensor].name.decode() != w.name for w in weights):
        raise UnsupportedError("ai-edge-quantizer must read the file as sdmobile does", source.name)
    chosen = [weight for weight in weights if weight.name in schemes]
    for weight in chosen:
        graph = model.subgraphs[weight.subgraph]
        for scope in dict.fromkeys(get_op_scope(graph.operators[user], graph.tensors) for user in weight.users):
            job.update_quantization_recipe(
                regex=f"^{re.escape(scope)}$",
                operation_name=qtyping.TFLOperationName(weight.operator),
                op_config=config(schemes[weight.name]),
            )
    dynamic = {weight.name.encode() for weight in chosen if schemes[weight.name].dynamic}
    expand(model, chosen)
    keep_ranks(model, _tensors(model, dynamic))
    with large_weights():
        job.quantize(serialize_to_path=str(out), enable_progress_bar=False, enable_progress_report=False)


def _tensors(model: Any, names: set[bytes]) -> set[tuple[int, int]]:
    """Returns the subgraph and the index of the tensors of some names, in AEQ's model."""
    graphs = enumerate(model.subgraphs)
    return {(g, t) for g, graph in graphs for t, tensor in enumerate(graph.tensors) if tensor.name in names}


@contextmanager
def large_weights() -> Iterator[None]:
    """Lets AEQ 0.10 quantise constants of more than two axes and 32 MiB.

    It cuts them into pieces as a matrix [-1, last axis] but leaves a scale per channel at [channels, 1, 1, 1], which
    then fits no piece ("input operand has more dimensions than allowed by the axis remapping"). Here it gets pieces
    of whole channels that it need not cut.
    """
    from ai_edge_quantizer.algorithms.uniform_quantize import uniform_quantize_tensor as module

    original = module.uniform_quantize

    def by_channels(tensor_data: Any, quantization_params: Any, is_blockwise_quant: bool = False) -> Any:
        params = quantization_params
        small = tensor_data.ndim <= 2 or tensor_data.nbytes <= _AEQ_PIECE
        if is_blockwise_quant or small or params.quantized_dimension != 0:
            return original(tensor_data, params, is_blockwise_quant)
        rows = tensor_data.reshape(len(tensor_data), -1)
        scale, zero = (np.reshape(values, (len(rows), 1)) for values in (params.scale, params.zero_point))
        step = max(1, _AEQ_PIECE // rows[0].nbytes)
        pieces = [slice(start, start + step) for start in range(0, len(rows), step)]
        parts = [original(rows[p], replace(params, scale=scale[p], zero_point=zero[p])) for p in pieces]
        return np.concatenate(parts).reshape(tensor_data.shape)

    module.uniform_quantize = by_channels
    try:
        yield
    finally:
        module.uniform_quantize = original
