"""Reads a saved model file, of whichever format, into the neutral graph."""

from __future__ import annotations

from pathlib import Path

from sdmobile.errors import UnsupportedError
from sdmobile.formats.errors import whole
from sdmobile.formats.graph.graph import FileGraph


def read_graph(path: Path) -> FileGraph:
    """Reads the graph of a `.tflite` file or of an `.mlpackage` folder.

    Raises:
        FormatError: the file is missing or damaged.
        UnsupportedError: neither of the two.
    """
    if path.suffix == ".tflite":
        from sdmobile.formats.graph.tflite import read_tflite

        with whole(path):
            return read_tflite(path)
    if path.suffix == ".mlpackage":
        from sdmobile.formats.graph.mlprogram import read_mlpackage

        with whole(path):
            return read_mlpackage(path)
    raise UnsupportedError("the file must be a .tflite or an .mlpackage", path)
