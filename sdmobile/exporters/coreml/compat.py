"""The one place that changes coremltools, for as long as a conversion lasts.

coremltools 9.0 keeps operators in sets where it moves transpositions through a program (`reduce_transposes`), and walks
through them in the order of their addresses. Where two transposed values are joined, as in joint attention, constants
that it makes are numbered by that order: two conversions of one network then differ in names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class InOrder(dict[Any, None]):
    """A set that is walked through in the order in which its elements came."""

    def __init__(self, elements: Iterable[Any] = ()) -> None:
        super().__init__(dict.fromkeys(elements))

    def add(self, element: Any) -> None:
        """Adds an element, if it is not there."""
        self[element] = None

    def update(self, elements: Iterable[Any]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Adds elements, those that are not there."""
        super().update(dict.fromkeys(elements))


@contextmanager
def ordered_transpositions() -> Iterator[None]:
    """While it lasts, coremltools' pass `reduce_transposes` takes operators in the order of the program."""
    from coremltools.converters.mil.mil.passes.defs import optimize_repeat_ops

    module: Any = optimize_repeat_ops
    module.set = InOrder  # a global of the module, found before the builtin
    try:
        yield
    finally:
        del module.set
