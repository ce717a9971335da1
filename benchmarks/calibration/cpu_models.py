"""The models that the CPU's parameters are tried on: public ones rebuilt from their graphs, and bundles."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.calibration.cpu_file import tflite_file
from benchmarks.calibration.cpu_measure import Plan, measure_model
from benchmarks.calibration.cpu_results import STORED
from benchmarks.calibration.stored import stored_graph, stored_graphs, write_graph
from sdmobile.errors import UnsupportedError
from sdmobile.formats.graph import FileGraph, read_graph
from sdmobile.prediction.graph_json import decode, encode

GRAPHS = STORED.parent / "graphs"
_SUFFIX = ".json.gz"


def rebuilt_models() -> tuple[str, ...]:
    """Returns the stored graphs of plain operators, which can be written as files again."""
    return tuple(name for name in stored_graphs() if not name.startswith("sd15"))


def model_graph(name: str) -> FileGraph:
    """Returns the graph of a model by its name in the measurements."""
    path = GRAPHS / f"{name}{_SUFFIX}"
    return decode(json.loads(gzip.decompress(path.read_bytes()))) if path.is_file() else stored_graph(name)


def bundle_models(given: str) -> dict[str, Path]:
    """Returns the files of a bundle by name.

    Args:
        given: NAME=FOLDER, such as "shapes_64=bundle".

    Raises:
        UnsupportedError: not of that form, or there are no .tflite files.
    """
    name, mark, folder = given.partition("=")
    files = sorted(Path(folder).glob("*.tflite")) if mark else []
    if not name or not files:
        raise UnsupportedError("a bundle to try must be NAME=FOLDER with .tflite files", given)
    return {f"{name}_{path.stem}": path for path in files}


def measure_models(bundles: Mapping[str, Path], plan: Plan) -> Iterator[tuple[str, FileGraph, dict[int, float]]]:
    """Yields name, graph and seconds by number of threads of every model, one at a time."""
    for name in rebuilt_models():
        graph = stored_graph(name)
        yield name, graph, measure_model(tflite_file(graph), plan)
    for name, path in bundles.items():
        yield name, read_graph(path), measure_model(path, plan)


def keep_graph(name: str, graph: FileGraph) -> None:
    """Stores a graph beside the measurements unless the package has an equal one."""
    if name not in stored_graphs() or encode(stored_graph(name)) != encode(graph):
        GRAPHS.mkdir(parents=True, exist_ok=True)
        write_graph(graph, GRAPHS / f"{name}{_SUFFIX}")
