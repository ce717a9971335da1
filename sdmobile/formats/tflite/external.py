"""Splits a `.tflite` file into a small model and a file of its weights, which a runtime can read from elsewhere.

    model     everything but the weights; a tensor names its weights by the number of an external buffer
    weights   the bytes of every external buffer, each at a multiple of 64, zeros between

Found by trying what LiteRT.js 2.5.3 takes: numbers have their highest bit set, and group 0 is one without a name; group
1 is called after the file of the weights. Buffers behind the flatbuffer must move into it.
"""

from __future__ import annotations

import hashlib
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdmobile.formats.errors import FormatError
from sdmobile.formats.tflite.model import Model
from sdmobile.formats.tflite.reader import IDENTIFIER, read_model

ALIGNMENT = 64
"""Bytes."""
FIRST_ID = 1 << 31
SMALLEST = 1024
"""Bytes; what is smaller stays in the model."""
TAKEN = {("DEQUANTIZE", 0, "FLOAT16"), ("CONV_2D", 1, "INT8"), ("FULLY_CONNECTED", 1, "INT8")}
"""Operators, places of their inputs and types that were tried."""
_REFUSED = "EMBEDDING_LOOKUP"
"""In a file with any external buffer, LiteRT.js 2.5.3 ends itself at this, even if its table is in the model."""
_GROUP = 1
_PIECE = 4 << 20


@dataclass(frozen=True)
class Written:
    """A file that was written.

    Args:
        path: where.
        size: bytes.
        sha256: of its content.
    """

    path: Path
    size: int
    sha256: str


@dataclass(frozen=True)
class External:
    """A file in two.

    Args:
        model: without weights.
        weights: the rest.
    """

    model: Written
    weights: Written


def write_external(path: Path, folder: Path) -> External | None:
    """Writes a model without weights and its weights, whose bytes are copied piece by piece.

    Args:
        path: the `.tflite` file, whole; of more than 2 GB, too.
        folder: where to; the files are called after `path`, and the model knows its weights by that name.

    Returns:
        What was written; None, and nothing is, for a file that would have no weights apart.

    Raises:
        FormatError: the file is no whole `.tflite` file, or its weights are external already.
        MissingDependencyError: `ai-edge-litert` is not installed.
        OSError: the folder cannot be written.
    """
    from sdmobile.basics.libraries import missing_library

    try:
        from ai_edge_litert import schema_py_generated
    except ModuleNotFoundError as error:
        raise missing_library(error) or error from error
    schema: Any = schema_py_generated
    known = read_model(path)  # every place lies inside of the file: the object API below does not look
    with path.open("rb") as file:
        whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    model = schema.ModelT.InitFromPackedBuf(whole, 0)
    if model.externalBuffers:
        raise FormatError("a file that is split must hold its weights itself", path, "Give the file that was exported")
    contents = [_content(buffer, whole) for buffer in model.buffers]
    moved = sorted(_movable(known) - {entry.buffer for entry in model.metadata or ()})
    if not moved:
        return None
    weights = folder / f"{path.stem}.weights"
    model.externalBufferGroups = [_group(schema, ""), _group(schema, weights.name)]
    model.externalBuffers, end = [], 0
    for place, number in enumerate(moved):
        start = -(-end // ALIGNMENT) * ALIGNMENT
        model.externalBuffers.append(_entry(schema, FIRST_ID | place, start, len(contents[number])))
        end = start + len(contents[number])
    _point(model, {number: FIRST_ID | place for place, number in enumerate(moved)})
    _fill(model, contents, set(moved), whole)
    return External(
        _write(folder / f"{path.stem}.model", [_packed(model)]),
        _write(weights, [contents[number] for number in moved]),
    )


def _content(buffer: Any, whole: memoryview) -> memoryview:
    """Returns the bytes of a buffer, a view of the file; they may lie behind the flatbuffer."""
    if buffer.size > 1:  # 0 and 1 are placeholders
        return whole[buffer.offset : buffer.offset + buffer.size]
    return memoryview(b"") if buffer.data is None else memoryview(buffer.data)


def _movable(model: Model) -> set[int]:
    """Returns the numbers of the buffers that may leave: large ones that every operator takes from elsewhere."""
    if any(node.op == _REFUSED for graph in model.graphs for node in graph.nodes):
        return set()
    taken: dict[int, bool] = {}
    for graph in model.graphs:
        for node in graph.nodes:
            for place, tensor in enumerate(node.inputs):
                if tensor is None or tensor.data is None:
                    continue
                blocks = tensor.quantization is not None and tensor.quantization.kind != "affine"
                fine = (node.op, place, tensor.dtype) in TAKEN and not blocks and len(tensor.data) >= SMALLEST
                taken[tensor.buffer] = taken.get(tensor.buffer, True) and fine
        for index in graph.outputs:
            taken[graph.tensors[index].buffer] = False
    return {number for number, fine in taken.items() if fine}


def _point(model: Any, ids: dict[int, int]) -> None:
    """Lets tensors name external buffers in the place of their own."""
    for graph in model.subgraphs:
        for tensor in _or_none(graph.tensors):
            if tensor.buffer in ids:
                tensor.externalBuffer, tensor.buffer = ids[tensor.buffer], 0


def _fill(model: Any, contents: list[memoryview], moved: set[int], whole: memoryview) -> None:
    """Puts what stays into the flatbuffer, wherever it lay: behind a smaller one, the old places would be wrong."""
    import numpy as np

    for number, buffer in enumerate(model.buffers):
        stays = number not in moved and len(contents[number]) > 0
        buffer.data = np.frombuffer(contents[number], np.uint8) if stays else None
        buffer.offset = buffer.size = 0
    for graph in model.subgraphs:
        for operator in _or_none(graph.operators):
            if operator.largeCustomOptionsOffset > 1:
                start = operator.largeCustomOptionsOffset
                operator.customOptions = np.frombuffer(whole[start : start + operator.largeCustomOptionsSize], np.uint8)
                operator.largeCustomOptionsOffset = operator.largeCustomOptionsSize = 0


def _packed(model: Any) -> memoryview:
    import flatbuffers

    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return memoryview(builder.Output())


def _write(path: Path, contents: list[memoryview]) -> Written:
    """Writes parts, each at a multiple of the alignment, and hashes them on the way."""
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        for content in contents:
            gap = bytes(-size % ALIGNMENT)
            pieces = [gap, *(content[start : start + _PIECE] for start in range(0, len(content), _PIECE))]
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
            size += len(gap) + len(content)
    return Written(path, size, digest.hexdigest())


def _group(schema: Any, name: str) -> Any:
    group = schema.ExternalBufferGroupT()
    group.name = name
    return group


def _entry(schema: Any, number: int, start: int, length: int) -> Any:
    entry = schema.ExternalBufferT()
    entry.id, entry.group, entry.offset, entry.length = number, _GROUP, start, length
    return entry


def _or_none(values: Any) -> Any:
    return () if values is None else values
