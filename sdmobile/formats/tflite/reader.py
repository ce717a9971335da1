"""Reads a `.tflite` file without its weights, and says what is wrong with one that is broken."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sdmobile.errors import MissingDependencyError
from sdmobile.formats.errors import FormatError
from sdmobile.formats.tflite.model import COMPOSITE, Composite, Graph, Model, Node, Quantization, Signature, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

_Read = TypeVar("_Read")

IDENTIFIER = b"TFL3"
_SMALLEST = 8  # bytes: where the root table is, and the identifier
_OPTIONAL = -1
_BROKEN = (struct.error, IndexError, TypeError, ValueError, AttributeError, OverflowError, KeyError, MemoryError)
_AGAIN = "Export it again, or copy it again and compare the sizes"


def read_graph(path: Path) -> Graph:
    """Reads the main subgraph of a file; files above 2 GB, whose weights lie behind the flatbuffer, too.

    Args:
        path: the `.tflite` file.

    Returns:
        Its operators and tensors.

    Raises:
        FormatError: the file is missing, is no `.tflite` file, or is truncated.
        MissingDependencyError: ai-edge-litert, which brings the schema, is not installed.
    """
    return _read(path, lambda reader: reader.graph(0))


def read_model(path: Path) -> Model:
    """Reads all subgraphs of a file and its signatures; raises as `read_graph`."""
    return _read(path, _Reader.model)


def _read(path: Path, part: Callable[[_Reader], _Read]) -> _Read:
    if not path.is_file():
        raise FormatError("a .tflite file to read must exist", path, "Give the path of a .tflite file")
    size = path.stat().st_size
    if size < _SMALLEST:
        raise FormatError("a .tflite file must hold a flatbuffer", f"{path} has {size} bytes", _AGAIN)
    with path.open("rb") as file:
        buffer = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    if bytes(buffer[4:8]) != IDENTIFIER:
        raise FormatError(
            "a .tflite file must carry the identifier TFL3", f"{path} has {bytes(buffer[4:8])!r}", "Give a .tflite file"
        )
    try:
        return part(_Reader(path, buffer))
    except _BROKEN as error:
        raise FormatError(
            "a .tflite file must be whole", f"{path} ({size} bytes) breaks off: {type(error).__name__}: {error}", _AGAIN
        ) from error


class _Reader:
    """Reads one file."""

    def __init__(self, path: Path, buffer: memoryview) -> None:
        schema = _schema()
        self._schema: Any = schema
        self._path = path
        self._buffer = buffer
        self._model: Any = schema.Model.GetRootAs(buffer, 0)
        self._operators = _names(schema.BuiltinOperator)
        self._types = _names(schema.TensorType)
        self._buffers = [self._place(i) for i in range(self._model.BuffersLength())]

    def model(self) -> Model:
        """Returns everything."""
        graphs = tuple(self.graph(i) for i in range(max(1, self._model.SubgraphsLength())))
        signatures = map(self._model.SignatureDefs, range(self._model.SignatureDefsLength()))
        behind = any(self._model.Buffers(i).Offset() > 1 for i in range(self._model.BuffersLength()))
        return Model(graphs, tuple(self._signature(stored) for stored in signatures), behind)

    def graph(self, index: int) -> Graph:
        """Returns a subgraph."""
        stored = self._model.Subgraphs(index)
        if stored is None:
            raise ValueError("no subgraph")
        tensors = tuple(self._tensor(stored.Tensors(i), i) for i in range(stored.TensorsLength()))
        nodes = tuple(self._node(stored.Operators(i), i, tensors) for i in range(stored.OperatorsLength()))
        inputs = tuple(stored.Inputs(i) for i in range(stored.InputsLength()))
        outputs = tuple(stored.Outputs(i) for i in range(stored.OutputsLength()))
        return Graph(self._path, nodes, tensors, inputs, outputs, len(self._buffer))

    def _signature(self, stored: Any) -> Signature:
        inputs = {_text(item.Name()): item.TensorIndex() for item in map(stored.Inputs, range(stored.InputsLength()))}
        outputs = {
            _text(item.Name()): item.TensorIndex() for item in map(stored.Outputs, range(stored.OutputsLength()))
        }
        return Signature(_text(stored.SignatureKey()), stored.SubgraphIndex(), inputs, outputs)

    def _place(self, index: int) -> tuple[int, int] | None:
        """Returns where the bytes of a buffer are, None where there are none; checks that the file holds them."""
        buffer = self._model.Buffers(index)
        if buffer.Size() > 1:  # stored behind the flatbuffer; 0 and 1 are placeholders
            start, length = buffer.Offset(), buffer.Size()
        elif buffer.DataLength():
            field = buffer._tab.Offset(4)
            start, length = buffer._tab.Vector(field), buffer.DataLength()
        else:
            return None
        if start + length > len(self._buffer):
            raise ValueError(f"buffer {index} ends at byte {start + length}")
        return start, length

    def _tensor(self, stored: Any, index: int) -> Tensor:
        place = self._buffers[stored.Buffer()]
        return Tensor(
            index=index,
            name=_text(stored.Name()),
            shape=tuple(stored.Shape(i) for i in range(stored.ShapeLength())),
            dtype=self._types.get(stored.Type(), f"type {stored.Type()}"),
            constant=place is not None,
            quantization=self._quantization(stored.Quantization()),
            sparse=stored.Sparsity() is not None,
            data=None if place is None else self._buffer[place[0] : place[0] + place[1]],
            buffer=stored.Buffer(),
            start=0 if place is None else place[0],
        )

    def _quantization(self, stored: Any) -> Quantization | None:
        if stored is None:
            return None
        kind = stored.DetailsType()
        if kind == self._schema.QuantizationDetails.BlockwiseQuantization:
            details = self._schema.BlockwiseQuantization()
            details.Init(stored.Details().Bytes, stored.Details().Pos)
            return Quantization("blockwise", 0, stored.QuantizedDimension(), holder=details.Scales())
        if kind == self._schema.QuantizationDetails.CustomQuantization:
            return Quantization("custom", 0, 0)
        count = stored.ScaleLength()
        if not count:
            return None
        zeros = stored.ZeroPointAsNumpy() if stored.ZeroPointLength() else None
        return Quantization("affine", count, stored.QuantizedDimension(), stored.ScaleAsNumpy(), zeros=zeros)

    def _node(self, stored: Any, index: int, tensors: tuple[Tensor, ...]) -> Node:
        code = self._model.OperatorCodes(stored.OpcodeIndex())
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())  # old files have it in the field of 8 bits
        op = self._operators.get(number, f"operator {number}")
        unpacked = self._schema.OperatorT.InitFromObj(stored)
        options = {}
        for chosen in (unpacked.builtinOptions, unpacked.builtinOptions2):
            options.update(vars(chosen) if chosen is not None else {})
        return Node(
            index=index,
            op=op,
            version=code.Version(),
            inputs=tuple(None if i == _OPTIONAL else tensors[i] for i in map(int, _each(unpacked.inputs))),
            outputs=tuple(tensors[i] for i in map(int, _each(unpacked.outputs))),
            options=options,
            custom=_text(code.CustomCode()) if op == "CUSTOM" else None,
            composite=_composite(options) if op == COMPOSITE else None,
        )


def _each(values: Any) -> Any:
    return () if values is None else values


def _composite(options: dict[str, Any]) -> Composite:
    from flatbuffers import flexbuffers

    packed = options.get("compositeAttributes")
    attributes: Any = flexbuffers.Loads(bytes(bytearray(packed))) if packed is not None and len(packed) else {}
    return Composite(_text(options.get("name")), attributes, options.get("decompositionSubgraphIndex"))


def _schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise MissingDependencyError(
            "reading a .tflite file needs ai-edge-litert", error, "Install it: pip install 'sdmobile[android]'."
        ) from error
    return schema_py_generated


def _text(stored: bytes | str | None) -> str:
    return stored if isinstance(stored, str) else (stored or b"").decode("utf-8", "replace")


def _names(enum: type) -> dict[int, str]:
    """Returns the names of a flatbuffer enumeration by value."""
    return {value: name for name, value in vars(enum).items() if isinstance(value, int)}
