"""The float16 weights of a `.tflite` file, and how ai-edge-quantizer (AEQ) makes integers of them.

AEQ takes float32 constants only and crashes on large ones, so that its copy of the model is changed in memory, and one
of its functions is replaced meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.errors import UnsupportedError
from sdmobile.formats.tflite.names import first_place
from sdmobile.formats.tflite.reader import operator_names, operator_number, type_names

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

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
        scopes: names of the operators that use it, as AEQ matches them.
        values: float16, of the tensor's shape; a view of the file.
        subgraph: index of the subgraph.
        tensor: index of the constant.
        wide: index of what DEQUANTIZE makes of it.
    """

    name: str
    module: str
    operator: str
    scopes: tuple[str, ...]
    values: NDArray[np.float16]
    subgraph: int
    tensor: int
    wide: int


def read_model(path: Path) -> Any:
    """Returns the model of a file; its buffers are views of the file."""
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils as utils

    return utils.read_model(utils.get_model_content(path))


def float16_weights(model: Any) -> tuple[TFLiteWeight, ...]:
    """Returns the weights of convolutions, matrix products and tables that are stored as float16."""
    return tuple(weight for index in range(len(model.subgraphs)) for weight in _of_subgraph(model, index))


def expand(model: Any, weights: Iterable[TFLiteWeight]) -> None:
    """Turns some float16 weights into float32 constants and drops their DEQUANTIZE, in place.

    The DEQUANTIZE's output tensor becomes the constant under the name of the float16 tensor, which goes.
    """
    name_of = _namer(model)
    for index, subgraph in enumerate(model.subgraphs):
        chosen = {weight.tensor: weight for weight in weights if weight.subgraph == index}
        if not chosen:
            continue
        for weight in chosen.values():
            narrow, wide = subgraph.tensors[weight.tensor], subgraph.tensors[weight.wide]
            wide.name, wide.buffer = narrow.name, narrow.buffer
            wide_values = weight.values.astype(np.float32)
            model.buffers[narrow.buffer].data = wide_values.reshape(-1).view(np.uint8)
        subgraph.operators = [
            op for op in subgraph.operators if not (name_of(op) == _DEQUANTIZE and int(op.inputs[0]) in chosen)
        ]
        _drop_tensors(model, index, set(chosen))


def _of_subgraph(model: Any, index: int) -> list[TFLiteWeight]:
    from ai_edge_quantizer.utils.tfl_flatbuffer_utils import get_op_scope

    subgraph = model.subgraphs[index]
    name_of, types = _namer(model), type_names()
    shared = _buffer_users(model)
    users: dict[int, list[tuple[Any, int]]] = {}
    for op in subgraph.operators:
        for position, tensor in enumerate(op.inputs):
            users.setdefault(int(tensor), []).append((op, position))
    weights: list[TFLiteWeight] = []
    for op in subgraph.operators:
        if name_of(op) != _DEQUANTIZE:
            continue
        narrow, wide = int(op.inputs[0]), int(op.outputs[0])
        tensor, uses = subgraph.tensors[narrow], users.get(wide, [])
        data = model.buffers[tensor.buffer].data
        operators = [_WEIGHT_OPERATORS[name_of(user)] for user, place in uses if _takes_weight(name_of(user), place)]
        weight_only = bool(uses) and len(operators) == len(uses)
        if data is None or types[tensor.type] != "FLOAT16" or not weight_only or len(users[narrow]) > 1:
            continue
        if shared[tensor.buffer] > 1 or wide in {int(output) for output in subgraph.outputs}:
            continue
        values = np.frombuffer(data, np.float16).reshape([int(size) for size in tensor.shape])
        scopes = tuple(dict.fromkeys(get_op_scope(user, subgraph.tensors) for user, _ in uses))
        name = tensor.name.decode()
        module = first_place(scopes[0])
        weights.append(TFLiteWeight(name, module, operators[0], scopes, values, index, narrow, wide))
    return weights


def _takes_weight(operator: str, position: int) -> bool:
    return operator in _WEIGHT_OPERATORS and position == _WEIGHT_INPUT


def _buffer_users(model: Any) -> dict[int, int]:
    counts: dict[int, int] = {}
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            counts[tensor.buffer] = counts.get(tensor.buffer, 0) + 1
    return counts


def _namer(model: Any) -> Callable[[Any], str]:
    """Returns a function that gives an operator's name in the schema."""
    names = operator_names()
    codes = [names[operator_number(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes]
    return lambda op: codes[op.opcodeIndex]


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

    job = quantizer.Quantizer(str(source))
    model = job._float_model  # pyright: ignore[reportPrivateUsage] (there is no way to hand in a model)
    if [w.name for w in float16_weights(model)] != [w.name for w in weights]:
        raise UnsupportedError("ai-edge-quantizer must read the file as sdmobile does", source.name)
    expand(model, [weight for weight in weights if weight.name in schemes])
    for weight in weights:
        if weight.name not in schemes:
            continue
        for scope in weight.scopes:
            job.update_quantization_recipe(
                regex=f"^{re.escape(scope)}$",
                operation_name=qtyping.TFLOperationName(weight.operator),
                op_config=config(schemes[weight.name]),
            )
    with large_weights():
        job.quantize(serialize_to_path=str(out), enable_progress_bar=False, enable_progress_report=False)


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
