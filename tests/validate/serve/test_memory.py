"""What a browser is predicted to hold: integer weights grow."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdmobile.validate.serve.memory import held, widened_bytes
from tests.lint.corpus.graph import Graph, options


@pytest.mark.parametrize(("dtype", "grown"), [("float32", 0), ("int8", 64 * 64)])
def test_weights_of_8_bits_grow_by_their_size(tmp_path: Path, dtype: str, grown: int) -> None:
    graph = Graph()
    weights = graph.weights(64, 64, dtype=dtype)
    if dtype == "int8":
        graph.quantized(weights, [0.1] * 64)
    made = options("FullyConnected", keepNumDims=True)
    path = tmp_path / "model.tflite"
    path.write_bytes(
        graph.bytes(*graph.op("FULLY_CONNECTED", [graph.input((1, 8, 64)), weights, -1], (1, 8, 64), options=made))
    )
    assert widened_bytes(path) == grown


def test_what_is_held_of_a_file() -> None:
    assert held({"size": 100}) == 480
    assert held({"size": 100, "widened": 90}) == 912
    pieces = {"model": {"size": 10}, "weights": {"size": 90}}
    assert held({"size": 100, "widened": 80, "external": pieces}) == pytest.approx(4.8 * 10 + 2.7 * 170)
