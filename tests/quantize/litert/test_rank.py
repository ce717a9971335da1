"""Integer matrix products keep their rank: the same numbers, and nothing that the GPU objects to."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from sdmobile.formats.tflite.reader import read_graph
from sdmobile.lint import lint_file
from sdmobile.quantize.litert import engine
from sdmobile.quantize.litert.apply import compress_tflite
from sdmobile.quantize.recipes import named_recipe
from tests.lint.corpus.graph import Graph, options
from tests.quantize.litert.blocks import BLOCKS, write_block
from tests.quantize.litert.test_apply import _outputs, _psnr


@pytest.mark.parametrize("name", BLOCKS)
def test_products_keep_their_rank_and_their_numbers(tmp_path: Path, name: str) -> None:
    source = write_block(tmp_path, name)
    kept, plain = tmp_path / "kept.tflite", tmp_path / "plain.tflite"
    compress_tflite(source, kept, named_recipe("gpu-int8"), "unet", "galaxy-s23-ultra")
    with mock.patch.object(engine, "keep_ranks", return_value=0):
        compress_tflite(source, plain, named_recipe("gpu-int8"), "unet", "galaxy-s23-ultra")
    assert "hybrid-rank" in lint_file(plain, "ml-drift").rules()  # else the converter has changed, and this is in vain
    assert lint_file(kept, "ml-drift").accepted
    products = [node for node in read_graph(kept).nodes if node.op == "FULLY_CONNECTED"]
    assert len(products) == 2
    assert all(node.inputs[0] and node.inputs[0].rank == node.outputs[0].rank for node in products)
    assert np.array_equal(_outputs(kept), _outputs(plain).reshape(_outputs(kept).shape))
    assert 35 < _psnr(_outputs(source), _outputs(kept)) < 110
    assert len(read_graph(kept).nodes) == len(read_graph(plain).nodes)  # what follows goes along


@pytest.mark.parametrize("behind", ["", "SOFTMAX", "other values"])
def test_a_reshape_stands_where_the_rank_means_something(tmp_path: Path, behind: str) -> None:
    source, kept, plain = (tmp_path / f"{name}.tflite" for name in ("source", "kept", "plain"))
    source.write_bytes(_dropping(behind))
    compress_tflite(source, kept, named_recipe("gpu-int8"), "unet", "galaxy-s23-ultra")
    with mock.patch.object(engine, "keep_ranks", return_value=0):
        compress_tflite(source, plain, named_recipe("gpu-int8"), "unet", "galaxy-s23-ultra")
    assert "hybrid-rank" in lint_file(plain, "ml-drift").rules()
    assert "hybrid-rank" not in lint_file(kept, "ml-drift").rules()
    assert [node.op for node in read_graph(kept).nodes].count("RESHAPE") == 1
    assert np.array_equal(_outputs(kept), _outputs(plain))


def _dropping(behind: str) -> bytes:
    """A product [1, 80, 64] to [80, 64] with float16 weights, and something behind it."""
    graph = Graph()
    x = graph.input((1, 80, 64))
    stored = graph.weights(64, 64, dtype="float16")
    wide = graph.op("DEQUANTIZE", [stored], (64, 64), options=options("Dequantize"), version=3)[0]
    made = graph.op("FULLY_CONNECTED", [x, wide, -1], (80, 64), options=options("FullyConnected"), version=5)[0]
    if behind == "SOFTMAX":
        made = graph.op("SOFTMAX", [made], (80, 64), options=options("Softmax", beta=1.0))[0]
    elif behind:
        made = graph.op("ADD", [made, graph.weights(80, 64)], (80, 64), options=options("Add"))[0]
    return graph.bytes(made)


def _product(graph: Graph, x: int, shape: tuple[int, int], rows: int) -> int:
    """A product whose result is a matrix, with float16 weights of their own."""
    stored = graph.weights(*shape, dtype="float16")
    wide = graph.op("DEQUANTIZE", [stored], shape, options=options("Dequantize"), version=3)[0]
    inputs = [x, wide, -1]
    return graph.op("FULLY_CONNECTED", inputs, (rows, shape[0]), options=options("FullyConnected"), version=5)[0]


def _two_sides() -> bytes:
    """Two products that are added: neither side can be lifted without the other, so that each gets a RESHAPE."""
    graph = Graph()
    x = graph.input((1, 80, 64))
    both = [_product(graph, x, (64, 64), 80) for _ in range(2)]
    made = graph.op("ADD", both, (80, 64), options=options("Add"))[0]
    return graph.bytes(graph.op("RESHAPE", [made, graph.const((1, 80, 64))], (1, 80, 64))[0])


def _joined() -> bytes:
    """A product that joins height, width and channels: keep_num_dims would want the weights' width last."""
    graph = Graph()
    x = graph.input((1, 4, 4, 16))
    return graph.bytes(_product(graph, x, (64, 256), 1))


@pytest.mark.parametrize(("build", "reshapes"), [(_two_sides, 3), (_joined, 1)])
def test_several_products_and_such_as_join_axes_stay_whole(tmp_path: Path, build: Any, reshapes: int) -> None:
    source, kept, plain = (tmp_path / f"{name}.tflite" for name in ("source", "kept", "plain"))
    source.write_bytes(build())
    compress_tflite(source, kept, named_recipe("gpu-int8"), "unet", "galaxy-s23-ultra")
    with mock.patch.object(engine, "keep_ranks", return_value=0):
        compress_tflite(source, plain, named_recipe("gpu-int8"), "unet", "galaxy-s23-ultra")
    assert "hybrid-rank" in lint_file(plain, "ml-drift").rules()
    assert lint_file(kept, "ml-drift").accepted
    assert [node.op for node in read_graph(kept).nodes].count("RESHAPE") == reshapes
    assert np.array_equal(_outputs(kept), _outputs(plain))


def test_a_batch_of_two_has_nothing_to_keep(tmp_path: Path) -> None:
    source = write_block(tmp_path, "GELU", batch=2)
    compress_tflite(source, tmp_path / "out.tflite", named_recipe("gpu-int8"), "unet", "galaxy-s23-ultra")
    assert lint_file(tmp_path / "out.tflite", "ml-drift").accepted


def test_the_recipe_leaves_convolutions_alone(small_tflite: Path, tmp_path: Path) -> None:
    record = compress_tflite(small_tflite, tmp_path / "out.tflite", named_recipe("gpu-int8"), "unet")
    assert {tensor.module: tensor.scheme for tensor in record.tensors} == {
        "conv": "fp16",
        "wide": "int8d",
        "narrow": "int8d",
    }
