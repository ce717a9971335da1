"""Graphs of public models as small compressed JSON."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path

from sdmobile.errors import UnsupportedError
from sdmobile.formats.graph import FileGraph
from sdmobile.prediction.graph_json import decode, encode

GRAPHS = Path(__file__).resolve().parent / "data/graphs"
_SUFFIX = ".json.gz"


def stored_graphs() -> tuple[str, ...]:
    """Returns the names of the stored graphs in alphabetical order."""
    return tuple(sorted(path.name.removesuffix(_SUFFIX) for path in GRAPHS.glob(f"*{_SUFFIX}")))


@cache
def stored_graph(name: str) -> FileGraph:
    """Reads a stored graph.

    Raises:
        UnsupportedError: there is none of that name.
    """
    path = GRAPHS / f"{name}{_SUFFIX}"
    if not path.is_file():
        raise UnsupportedError("the graph must be a stored one", name, f"Stored are {', '.join(stored_graphs())}")
    return decode(json.loads(gzip.decompress(path.read_bytes())))


def write_graph(graph: FileGraph, path: Path) -> None:
    """Writes a graph; equal graphs give equal bytes."""
    text = json.dumps(encode(graph), separators=(",", ":"))
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    temporary.replace(path)
