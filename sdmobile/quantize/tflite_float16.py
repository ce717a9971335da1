"""Casts the weights of a `.tflite` file to float16; the arithmetic stays in float32 or in what the GPU uses."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdmobile.errors import UnsupportedError

# Flatbuffer offsets are signed 32-bit, and so is every Android runtime that reads the file in one piece.
MAX_TFLITE_BYTES = (1 << 31) - 1


@dataclass(frozen=True)
class Float16Record:
    """Sizes before and after the cast.

    Args:
        bytes_before: size of the float32 file.
        bytes_after: size of the file with float16 weights.
    """

    bytes_before: int
    bytes_after: int

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object."""
        return asdict(self)


def cast_weights(source: Path, out: Path, float32_tables: bool = False) -> Float16Record:
    """Writes `source` with the weights of convolutions, matrix products and embeddings in float16.

    Args:
        source: a float32 `.tflite`, which may exceed 2 GB.
        out: where the result goes; it must not exist.
        float32_tables: leave embedding tables as they are, for GPUs that look up no float16 table.

    Raises:
        UnsupportedError: the result exceeds 2 GB.
    """
    from ai_edge_quantizer import qtyping, quantizer

    job = quantizer.Quantizer(str(source))
    weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    job.update_quantization_recipe(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        op_config=qtyping.OpQuantizationConfig(
            weight_tensor_config=weights, compute_precision=qtyping.ComputePrecision.FLOAT
        ),
        algorithm_key=quantizer.AlgorithmName.FLOAT_CASTING,
    )
    if float32_tables:
        job.update_quantization_recipe(
            regex=".*",
            operation_name=qtyping.TFLOperationName.EMBEDDING_LOOKUP,
            algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE,
        )
    job.quantize(serialize_to_path=str(out))
    require_loadable(out)
    return Float16Record(source.stat().st_size, out.stat().st_size)


def require_loadable(path: Path) -> None:
    """Raises UnsupportedError if the file is too large for a phone's runtime."""
    size = path.stat().st_size
    if size > MAX_TFLITE_BYTES:
        raise UnsupportedError(
            "a .tflite file must stay below 2 GB to be loaded on a phone",
            f"{path.name} has {size / 1e9:.2f} GB with float16 weights",
            "Leave the component out with --components, or use a smaller model",
        )
