"""A file in two: every byte is where the model says, and put back together it computes the same."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmobile.formats.errors import FormatError
from sdmobile.formats.tflite.external import ALIGNMENT, FIRST_ID, SMALLEST, External, write_external
from sdmobile.formats.tflite.reader import read_model
from tests.lint.corpus.graph import Graph, options

schema: Any = schema_py_generated
SIDE = 4
CHANNELS = st.integers(1, 40)


def _file(channels: list[int], halves: bool, shared: bool) -> bytes:
    """Returns a file of convolutions of one point each, the first of whose weights two of them may share."""
    graph = Graph()
    x = graph.input((1, SIDE, SIDE, channels[0]))
    previous = channels[0]
    kernels: dict[tuple[int, int], int] = {}
    for out in channels[1:]:
        shape = (out, 1, 1, previous)
        known = kernels.get((out, previous)) if shared else None
        kernel = graph.weights(*shape, dtype="float16" if halves else "float32") if known is None else known
        kernels[out, previous] = kernel
        if halves:
            (kernel,) = graph.op("DEQUANTIZE", [kernel], shape)
        stride = options("Conv2D", strideH=1, strideW=1)
        (x,) = graph.op("CONV_2D", [x, kernel, graph.weights(out)], (1, SIDE, SIDE, out), options=stride)
        previous = out
    sizes = graph.const(np.array([1, SIDE * SIDE, previous], np.int32))
    (x,) = graph.op("RESHAPE", [x, sizes], (1, SIDE * SIDE, previous))
    return _with_numbers(graph.bytes(x))


def _with_numbers(data: bytes) -> bytes:
    """Returns a file whose weights are random numbers."""
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    random = np.random.default_rng(0)
    for tensor in model.subgraphs[0].tensors:
        buffer = model.buffers[tensor.buffer]
        kind = {schema.TensorType.FLOAT32: np.float32, schema.TensorType.FLOAT16: np.float16}.get(tensor.type)
        if tensor.buffer and kind and buffer.data is not None:
            count = len(buffer.data) // np.dtype(kind).itemsize
            buffer.data = np.frombuffer(random.standard_normal(count).astype(kind).tobytes(), np.uint8)
    return _packed(model)


def _packed(model: Any) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _appended(data: bytes) -> bytes:
    """Returns the same file with every buffer behind the flatbuffer, as files of more than 2 GB have them."""
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    contents = [None if buffer.data is None else bytes(buffer.data) for buffer in model.buffers]
    for buffer, content in zip(model.buffers, contents, strict=True):
        if content is not None:
            buffer.data, buffer.offset, buffer.size = None, 1 << 40, len(content)
    end = len(_packed(model))
    behind = b""
    for buffer, content in zip(model.buffers, contents, strict=True):
        if content is not None:
            behind += bytes(-(end + len(behind)) % 16)
            buffer.offset = end + len(behind)
            behind += content
    return _packed(model) + behind


def _split(path: Path) -> External:
    """Returns a file in two, which lie beside it."""
    split = write_external(path, path.parent)
    assert split is not None
    return split


def _together(split: External) -> bytes:
    """Returns a whole file again, by the model's own words about where its weights are."""
    model = schema.ModelT.InitFromPackedBuf(split.model.path.read_bytes(), 0)
    weights = split.weights.path.read_bytes()
    assert [group.name for group in model.externalBufferGroups] == [b"", split.weights.path.name.encode()]
    places = {entry.id: entry for entry in model.externalBuffers}
    for tensor in model.subgraphs[0].tensors:
        if tensor.externalBuffer:
            entry = places[tensor.externalBuffer]
            assert (tensor.buffer, entry.group, entry.offset % ALIGNMENT) == (0, 1, 0)
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(weights[entry.offset : entry.offset + entry.length], np.uint8)
            tensor.buffer, tensor.externalBuffer = len(model.buffers), 0
            model.buffers.append(buffer)
    model.externalBuffers = model.externalBufferGroups = None
    return _packed(model)


def _computed(data: bytes, channels: int) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    given_ = np.random.default_rng(1).standard_normal((1, SIDE, SIDE, channels)).astype(np.float32)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], given_)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@given(
    channels=st.lists(CHANNELS, min_size=2, max_size=5), halves=st.booleans(), shared=st.booleans(), far=st.booleans()
)
@settings(max_examples=40, deadline=None)
def test_a_file_in_two_is_the_same_file(
    channels: list[int], halves: bool, shared: bool, far: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = _file(channels, halves, shared)
    folder = tmp_path_factory.mktemp("external")
    path = folder / "net.tflite"
    path.write_bytes(_appended(data) if far else data)
    split = write_external(path, folder)
    fit = [tensor for tensor in read_model(path).graphs[0].tensors if tensor.data and tensor.dtype == "FLOAT16"]
    if not any(len(tensor.data or b"") >= SMALLEST for tensor in fit):
        assert split is None
        return
    assert split is not None
    for written in (split.model, split.weights):
        content = written.path.read_bytes()
        assert (written.size, written.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    whole, small = (schema.ModelT.InitFromPackedBuf(each, 0) for each in (data, split.model.path.read_bytes()))
    weights = split.weights.path.read_bytes()
    entries = {entry.id: entry for entry in small.externalBuffers}
    assert sorted(entries) == [FIRST_ID | place for place in range(len(entries))]
    for old, new in zip(whole.subgraphs[0].tensors, small.subgraphs[0].tensors, strict=True):
        stored = whole.buffers[old.buffer].data
        bytes_ = b"" if stored is None else bytes(stored)
        assert (new.externalBuffer != 0) == (len(bytes_) >= SMALLEST and old.type == schema.TensorType.FLOAT16)
        if new.externalBuffer:
            entry = entries[new.externalBuffer]
            assert weights[entry.offset : entry.offset + entry.length] == bytes_
        elif bytes_:
            assert bytes(small.buffers[new.buffer].data) == bytes_
    assert split.model.size < SMALLEST * len(whole.subgraphs[0].tensors) + 8192
    assert np.array_equal(_computed(_together(split), channels[0]), _computed(data, channels[0]))


def test_the_split_file_is_read_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(_file([32, 32, 8], halves=True, shared=False))
    whole, small = read_model(path), read_model(_split(path).model.path)
    assert [node.op for node in small.graphs[0].nodes] == [node.op for node in whole.graphs[0].nodes]
    assert [tensor.shape for tensor in small.graphs[0].tensors] == [tensor.shape for tensor in whole.graphs[0].tensors]
    assert sum(tensor.constant for tensor in small.graphs[0].tensors) < sum(
        tensor.constant for tensor in whole.graphs[0].tensors
    )


def test_what_metadata_has_stays(tmp_path: Path) -> None:
    model = schema.ModelT.InitFromPackedBuf(_file([32, 32, 32], halves=True, shared=False), 0)
    kept = next(tensor.buffer for tensor in model.subgraphs[0].tensors if tensor.buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = "kept", kept
    model.metadata = [entry]
    path = tmp_path / "net.tflite"
    path.write_bytes(_packed(model))
    small = schema.ModelT.InitFromPackedBuf(_split(path).model.path.read_bytes(), 0)
    assert bytes(small.buffers[kept].data) == bytes(model.buffers[kept].data)
    assert len(small.externalBuffers) == 1


def test_what_another_operator_takes_too_stays(tmp_path: Path) -> None:
    graph = Graph()
    x = graph.input((32, 32), "float16")
    table = graph.weights(32, 32, dtype="float16")
    (row,) = graph.op("ADD", [x, table], (32, 32))
    (wide,) = graph.op("DEQUANTIZE", [table], (32, 32))
    alone = graph.weights(32, 32, dtype="float16")
    (other,) = graph.op("DEQUANTIZE", [alone], (32, 32))
    path = tmp_path / "net.tflite"
    path.write_bytes(graph.bytes(row, wide, other))
    model = schema.ModelT.InitFromPackedBuf(_split(path).model.path.read_bytes(), 0)
    apart = [place for place, tensor in enumerate(model.subgraphs[0].tensors) if tensor.externalBuffer]
    assert apart == [alone]


def test_a_file_with_a_table_stays_whole(tmp_path: Path) -> None:
    """The runtime ends itself at EMBEDDING_LOOKUP as soon as anything of the file is external."""
    graph = Graph()
    number = graph.input((4,), "int32")
    (row,) = graph.op("EMBEDDING_LOOKUP", [number, graph.weights(32, 32)], (4, 32))
    (wide,) = graph.op("DEQUANTIZE", [graph.weights(32, 32, dtype="float16")], (32, 32))
    path = tmp_path / "net.tflite"
    path.write_bytes(graph.bytes(row, wide))
    assert write_external(path, tmp_path) is None
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_split_once(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(_file([32, 32], halves=True, shared=False))
    (tmp_path / "again").mkdir()
    again = _split(path).model.path
    with pytest.raises(FormatError, match="must hold its weights itself"):
        write_external(again, tmp_path / "again")


@pytest.mark.parametrize("left", [0.3, 0.7, 0.95])
def test_a_truncated_file_is_named(tmp_path: Path, left: float) -> None:
    path = tmp_path / "net.tflite"
    data = _appended(_file([32, 32], halves=False, shared=False))
    path.write_bytes(data[: int(left * len(data))])
    with pytest.raises(FormatError, match=r"net\.tflite"):
        write_external(path, tmp_path)
