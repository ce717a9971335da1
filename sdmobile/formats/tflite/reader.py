"""Reads a `.tflite` file without its weights, and says what is wrong with one that is broken."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sdmobile.formats.errors import FormatError
from sdmobile.formats.tflite.model import COMPOSITE, Composite, Graph, Model, Node, Quantization, Signature, Tensor
from sdmobile.formats.tflite.schema import Record, numbers_of

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
        self._path = path
        self._buffer = buffer
        self._model = Record.root("Model", buffer)
        self._operators = _names("BuiltinOperator")
        self._types = _names("TensorType")
        self._codes = _each(self._model.operatorCodes)
        self._stored = _each(self._model.buffers)
        self._buffers = [self._place(index) for index in range(len(self._stored))]

    def model(self) -> Model:
        """Returns everything."""
        graphs = tuple(self.graph(index) for index in range(max(1, len(_each(self._model.subgraphs)))))
        signatures = tuple(map(self._signature, _each(self._model.signatureDefs)))
        return Model(graphs, signatures, any(buffer.offset > 1 for buffer in self._stored))

    def graph(self, index: int) -> Graph:
        """Returns a subgraph."""
        stored = self._model.subgraphs[index]
        tensors = tuple(self._tensor(one, number) for number, one in enumerate(_each(stored.tensors)))
        nodes = tuple(self._node(one, number, tensors) for number, one in enumerate(_each(stored.operators)))
        inputs, outputs = (tuple(map(int, _each(ends))) for ends in (stored.inputs, stored.outputs))
        return Graph(self._path, nodes, tensors, inputs, outputs, len(self._buffer))

    def _signature(self, stored: Record) -> Signature:
        inputs, outputs = (
            {_text(item.name): item.tensorIndex for item in _each(items)} for items in (stored.inputs, stored.outputs)
        )
        return Signature(_text(stored.signatureKey), stored.subgraphIndex, inputs, outputs)

    def _place(self, index: int) -> tuple[int, int] | None:
        """Returns where the bytes of a buffer are, None where there are none; checks that the file holds them."""
        buffer = self._stored[index]
        if buffer.size > 1:  # stored behind the flatbuffer; 0 and 1 are placeholders
            start, length = buffer.offset, buffer.size
        else:
            start, length = buffer.span("data") or (0, 0)
        if start + length > len(self._buffer):
            raise ValueError(f"buffer {index} ends at byte {start + length}")
        return (start, length) if length else None

    def _tensor(self, stored: Record, index: int) -> Tensor:
        place = self._buffers[stored.buffer]
        return Tensor(
            index=index,
            name=_text(stored.name),
            shape=tuple(map(int, _each(stored.shape))),
            dtype=self._types.get(stored.type, f"type {stored.type}"),
            constant=place is not None,
            quantization=self._quantization(stored.quantization),
            sparse=stored.sparsity is not None,
            data=None if place is None else self._buffer[place[0] : place[0] + place[1]],
            buffer=stored.buffer,
            start=0 if place is None else place[0],
        )

    def _quantization(self, stored: Record | None) -> Quantization | None:
        if stored is None:
            return None
        kinds = numbers_of("QuantizationDetails")
        if stored.detailsType == kinds["BlockwiseQuantization"]:
            return Quantization("blockwise", 0, stored.quantizedDimension, holder=stored.details.scales)
        if stored.detailsType == kinds["CustomQuantization"]:
            return Quantization("custom", 0, 0)
        scales = _each(stored.scale)
        if not len(scales):
            return None
        zeros = stored.zeroPoint if len(_each(stored.zeroPoint)) else None
        return Quantization("affine", len(scales), stored.quantizedDimension, stored.scale, zeros=zeros)

    def _node(self, stored: Record, index: int, tensors: tuple[Tensor, ...]) -> Node:
        code = self._codes[stored.opcodeIndex]
        number = max(code.builtinCode, code.deprecatedBuiltinCode)  # old files have it in the field of 8 bits
        op = self._operators.get(number, f"operator {number}")
        options: dict[str, Any] = {}
        for chosen in (stored.builtinOptions, stored.builtinOptions2):
            options.update(chosen.items() if chosen is not None else {})
        return Node(
            index=index,
            op=op,
            version=code.version,
            inputs=tuple(None if i == _OPTIONAL else tensors[i] for i in map(int, _each(stored.inputs))),
            outputs=tuple(tensors[i] for i in map(int, _each(stored.outputs))),
            options=options,
            custom=_text(code.customCode) if op == "CUSTOM" else None,
            composite=_composite(options) if op == COMPOSITE else None,
        )


def _each(values: Any) -> Any:
    return () if values is None else values


def _composite(options: dict[str, Any]) -> Composite:
    from flatbuffers import flexbuffers

    packed = options.get("compositeAttributes")
    attributes: Any = flexbuffers.Loads(bytes(bytearray(packed))) if packed is not None and len(packed) else {}
    return Composite(_text(options.get("name")), attributes, options.get("decompositionSubgraphIndex"))


def _text(stored: bytes | str | None) -> str:
    return stored if isinstance(stored, str) else (stored or b"").decode("utf-8", "replace")


def _names(enumeration: str) -> dict[int, str]:
    """Returns the names of an enumeration by value."""
    return {value: name for name, value in numbers_of(enumeration).items()}
