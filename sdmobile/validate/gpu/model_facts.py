"""What the GPU check must know about a `.tflite` file before it runs it."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sdmobile.errors import UnsupportedError
from sdmobile.formats.tflite.gpu_bytes import gpu_bytes
from sdmobile.validate.gpu.verdict import Acceptance, LargestTensor, RefusedOperator
from sdmobile.validate.gpu.winograd_copies import transformed_weights

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


COMPOSITE = "STABLEHLO_COMPOSITE"
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
    modules = tuple(dict.fromkeys(name.split(";")[0].rsplit("/", 1)[-1] for name in names))
    return modules if len(modules) <= _MANY else (*modules[:_MANY], f"… and {len(modules) - _MANY} more")


def read_model(path: Path) -> ModelFacts:
    """Reads a file's operators, tensors and first signature; weights are not read.

    Raises:
        UnsupportedError: not a `.tflite` file, or a damaged one.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import mmap_utils

    content: Any = mmap_utils.get_file_contents(path)
    if len(content) < 8 or bytes(content[4:8]) != b"TFL3":
        raise UnsupportedError("the GPU check reads LiteRT files", path, "Give a .tflite file, or a bundle's folder.")
    try:
        return _facts(schema.Model.GetRootAs(content, 0), schema)
    except (struct.error, IndexError, KeyError, ValueError, TypeError, AttributeError) as error:
        fix = "Export or copy it again."
        raise UnsupportedError("the GPU check reads whole LiteRT files", f"{path} is damaged ({error})", fix) from error


def _facts(model: Any, schema: Any) -> ModelFacts:
    graph = model.Subgraphs(0)
    tensors = tuple(_tensor(model, graph.Tensors(i), schema) for i in range(graph.TensorsLength()))
    names = [tensor.name for tensor in tensors]
    operators = tuple(_operator(model, graph.Operators(i), names, schema) for i in range(graph.OperatorsLength()))
    composites = tuple(
        name
        for i in range(graph.OperatorsLength())
        if (name := _composite(graph.Operators(i), schema)) is not None and operators[i][0] == COMPOSITE
    )
    copies = tuple(
        TensorFacts(
            f"{tensors[operator.Inputs(1)].name.removesuffix(_DEQUANTIZED)} (transformed)", shape, "FLOAT32", True
        )
        for operator, (name, _) in zip(map(graph.Operators, range(graph.OperatorsLength())), operators, strict=True)
        if (shape := transformed_weights(model, operator, name, schema)) is not None
    )
    return ModelFacts(operators, composites, tensors, *_signature(model), copies)


def _tensor(model: Any, tensor: Any, schema: Any) -> TensorFacts:
    buffer = model.Buffers(tensor.Buffer())
    shape = tuple(tensor.Shape(i) for i in range(tensor.ShapeLength()))
    constant = buffer.DataLength() > 0 or buffer.Offset() > 1
    quantization = tensor.Quantization()
    quantized = quantization is not None and quantization.ScaleLength() > 0
    return TensorFacts(tensor.Name().decode(), shape, _names(schema.TensorType)[tensor.Type()], constant, quantized)


def _operator(model: Any, operator: Any, names: list[str], schema: Any) -> tuple[str, tuple[str, ...]]:
    from ai_edge_litert.tools import flatbuffer_utils

    code = model.OperatorCodes(operator.OpcodeIndex())
    name = _names(schema.BuiltinOperator)[flatbuffer_utils.get_builtin_code_from_operator_code(code)]
    return name, tuple(names[operator.Outputs(i)] for i in range(operator.OutputsLength()))


def _composite(operator: Any, schema: Any) -> str | None:
    if operator.BuiltinOptions2Type() != schema.BuiltinOptions2.StableHLOCompositeOptions:
        return None
    options = schema.StableHLOCompositeOptions()
    table = operator.BuiltinOptions2()
    options.Init(table.Bytes, table.Pos)
    name = options.Name()
    return None if name is None else name.decode()


def _signature(model: Any) -> tuple[str | None, tuple[str, ...], tuple[str, ...]]:
    if model.SignatureDefsLength() == 0:
        return None, (), ()
    definition = model.SignatureDefs(0)
    inputs = tuple(definition.Inputs(i).Name().decode() for i in range(definition.InputsLength()))
    outputs = tuple(definition.Outputs(i).Name().decode() for i in range(definition.OutputsLength()))
    return definition.SignatureKey().decode(), inputs, outputs


def _names(enum: type) -> dict[int, str]:
    return {value: name for name, value in vars(enum).items() if isinstance(value, int)}
