"""What the GPU check must know about a `.tflite` file before it runs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sdmobile.device_profiles.runtime_rules.winograd import ML_DRIFT, Gpu
from sdmobile.errors import UnsupportedError
from sdmobile.formats.errors import FormatError, whole
from sdmobile.formats.tflite import reader as formats
from sdmobile.formats.tflite.gpu_bytes import gpu_bytes
from sdmobile.formats.tflite.graph import convolutions
from sdmobile.formats.tflite.names import first_place
from sdmobile.validate.gpu.verdict import Acceptance, LargestTensor, RefusedOperator

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from sdmobile.formats.tflite.model import Graph, Model, Tensor

_MANY = 6
_DEQUANTIZED = "_dequant"  # ends the name of a float16 weight behind its DEQUANTIZE


@dataclass(frozen=True)
class TensorFacts:
    """One tensor of the main graph.

    Args:
        name: as the file states it.
        shape: sizes; the batch first.
        dtype: of the flatbuffer's enumeration, as FLOAT32.
        constant: its values are in the file.
        quantized: integers stand for numbers by a scale and a zero point.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    constant: bool
    quantized: bool = False

    def bytes_on_gpu(self, precision: str) -> int:
        """Returns its size in a GPU buffer."""
        float_bytes = 2 if precision == "float16" else 4
        return gpu_bytes(self.shape, self.dtype, float_bytes, constant=self.constant, quantized=self.quantized)


@dataclass(frozen=True)
class ModelFacts:
    """A file's operators and tensors.

    Args:
        operators: (name, names of the output tensors) of the main graph, in order.
        composites: names of the composites, as odml.group_norm.
        tensors: tensors of the main graph.
        signature: key of the first signature; None without one.
        inputs: input names of the first signature.
        outputs: output names of the first signature.
        copies: weights as the GPU transforms them, where they become larger than the file's.
    """

    operators: tuple[tuple[str, tuple[str, ...]], ...]
    composites: tuple[str, ...]
    tensors: tuple[TensorFacts, ...]
    signature: str | None = None
    inputs: tuple[str, ...] = field(default=())
    outputs: tuple[str, ...] = field(default=())
    copies: tuple[TensorFacts, ...] = field(default=())

    def largest(self, precision: str, limit: int | None) -> LargestTensor | None:
        """Returns the largest tensor that the GPU holds, with the limit it must keep."""
        held = [tensor for tensor in (*self.tensors, *self.copies) if tensor.shape]
        if not held:
            return None
        top = max(held, key=lambda tensor: tensor.bytes_on_gpu(precision))
        return LargestTensor(top.name, top.bytes_on_gpu(precision), limit, top.constant)

    def explain(self, acceptance: Acceptance) -> tuple[RefusedOperator, ...]:
        """Returns the accelerator's complaints with the source modules of the operators that they name."""
        explained = []
        for name, reason in acceptance.complaints:
            outputs = [outputs for operator, outputs in self.operators if operator == name]
            modules = source_modules(output for group in outputs for output in group)
            explained.append(RefusedOperator(name, reason, len(outputs), modules))
        return tuple(explained)


def source_modules(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the module paths that tensors are named after, in order, the first few only.

    The converter names a tensor `<module>;<number>`, with the classes of the modules around it in front, separated by
    slashes; sdmobile's exporter has it write the module's path in the checkpoint instead.
    """
    modules = tuple(dict.fromkeys(first_place(name).rsplit("/", 1)[-1] for name in names))
    return modules if len(modules) <= _MANY else (*modules[:_MANY], f"… and {len(modules) - _MANY} more")


def read_model(path: Path) -> ModelFacts:
    """Reads a file's operators, tensors and first signature; weights are not read.

    Raises:
        UnsupportedError: not a `.tflite` file, or a damaged one.
    """
    try:
        model = formats.read_model(path)
        with whole(path):
            return _facts(model)
    except FormatError as error:
        raise UnsupportedError(f"the GPU check reads LiteRT files: {error.rule}", error.value, error.fix) from error


def _facts(model: Model) -> ModelFacts:
    graph = model.graphs[0]
    signature = next(iter(model.signatures), None)
    return ModelFacts(
        operators=tuple((node.op, tuple(tensor.name for tensor in node.outputs)) for node in graph.nodes),
        composites=tuple(node.composite.name for node in graph.nodes if node.composite is not None),
        tensors=tuple(map(_tensor, graph.tensors)),
        signature=None if signature is None else signature.key,
        inputs=() if signature is None else tuple(signature.inputs),
        outputs=() if signature is None else tuple(signature.outputs),
        copies=tuple(_transformed_weights(graph)),
    )


def _tensor(tensor: Tensor) -> TensorFacts:
    quantized = tensor.quantization is not None and tensor.quantization.kind == "affine"
    return TensorFacts(tensor.name, tensor.shape, tensor.dtype, tensor.constant, quantized)


def _transformed_weights(graph: Graph) -> Iterator[TensorFacts]:
    """Yields weights as ML Drift transforms them for Winograd's method: four times as large, often the largest tensors.

    A software GPU is of the family `Gpu.OTHER`. Measured with float32 weights of 1920 to 640 channels at 32×32, 177 MB
    transformed: on lavapipe, whose buffers hold 134 MB, the result is wrong without a word; on SwiftShader, where they
    are a texture of 17,280 rows, WebGPU refuses it.
    """
    for node, layer in convolutions(graph):
        weights, shape = node.inputs[1], ML_DRIFT.weight_buffer(layer, Gpu.OTHER)
        if shape is not None and weights is not None:
            yield TensorFacts(f"{weights.name.removesuffix(_DEQUANTIZED)} (transformed)", shape, "FLOAT32", True)
