"""ai-edge-quantizer: its configuration of a scheme, and the way round its crash on large weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

    from sdmobile.quantize.litert.constants import TFLiteWeight
    from sdmobile.quantize.schemes import Linear

_BLOCKS = (32, 64, 128, 256)
_AEQ_PIECE = 32 << 20


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

    from sdmobile.quantize.litert.constants import expand, float16_weights

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
    import numpy as np
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
