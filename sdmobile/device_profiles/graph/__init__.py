"""Saved model files as one neutral graph."""

from sdmobile.device_profiles.graph.graph import FileGraph, Operation, Tensor, read_graph

__all__ = ["FileGraph", "Operation", "Tensor", "read_graph"]
