"""A corpus case: a named small model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.lint.corpus.graph import Graph, Shape


@dataclass(frozen=True)
class Case:
    """One model of the corpus.

    Args:
        name: unique; what is special about it.
        build: returns the bytes of the file.
        comparable: whether the CPU's numbers are a reference; they are not where it quantises activations or leaves a
            fused activation out.
        tolerance: difference that counts as equal, as a share of the largest value; where both sides quantise
            activations, they round apart.
    """

    name: str
    build: Callable[[], bytes]
    comparable: bool = True
    tolerance: float = 1e-3


Cases = Iterator[Case]


def single(
    name: str, shape: Shape, dtype: str, add: Callable[[Graph, int], list[int]], comparable: bool = True
) -> Case:
    """Returns a case of one input; `add` adds operators to it and returns the outputs."""

    def build() -> bytes:
        graph = Graph()
        return graph.bytes(*add(graph, graph.input(shape, dtype)))

    return Case(name, build, comparable)


def double(
    name: str,
    first: Shape,
    second: Shape,
    dtype: str,
    add: Callable[[Graph, int, int], list[int]],
    comparable: bool = True,
) -> Case:
    """Returns a case of two inputs."""

    def build() -> bytes:
        graph = Graph()
        return graph.bytes(*add(graph, graph.input(first, dtype), graph.input(second, dtype)))

    return Case(name, build, comparable)


def label(shape: Shape) -> str:
    """Returns a shape for a case's name."""
    return "x".join(map(str, shape)) or "scalar"


def words(text: str) -> tuple[str, ...]:
    """Returns the words of a text."""
    return tuple(text.split())
