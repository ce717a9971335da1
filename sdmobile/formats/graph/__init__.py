"""Saved model files as one neutral graph."""

from sdmobile.formats.graph.graph import FileGraph, Operation, Tensor
from sdmobile.formats.graph.read import read_graph

__all__ = ["FileGraph", "Operation", "Tensor", "read_graph"]
