"""The table of operations: what each takes, read from the signature of the function that computes it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sdmobile.formats.mlprogram.errors import UnsupportedOpError
from sdmobile.formats.mlprogram.types import NamedType
from sdmobile.runtimes.mlprogram.precision import Rounding

Block = Callable[..., list[Any]]
"""A part of a program, from its inputs to its outputs."""
KINDS = ("Tensor", "list[Tensor]", "int", "float", "bool", "str", "list[int]", "list[bool]")
"""What the parameter of an operation may be annotated with, also with ` | None`."""


@dataclass(frozen=True)
class Context:
    """What an operation may need beyond its parameters.

    Args:
        op_type: type of the operation.
        op_name: its name.
        ios: the iOS version whose definitions apply.
        rounding: what the precision mode rounds.
        outputs: declared results.
    """

    op_type: str
    op_name: str
    ios: int
    rounding: Rounding
    outputs: tuple[NamedType, ...]

    @property
    def rounds_sums(self) -> bool:
        """Whether partial sums are rounded to float16."""
        return self.rounding.sums and self.outputs[0].type.dtype == "float16"

    def unsupported(self, reason: str) -> UnsupportedOpError:
        """Returns the error to raise for an attribute or value that is not implemented."""
        return UnsupportedOpError(self.op_type, self.op_name, reason)


@dataclass(frozen=True)
class Parameter:
    """One parameter of an operation: its kind (of `KINDS`) and whether it may be absent."""

    kind: str
    optional: bool


@dataclass(frozen=True)
class Op:
    """One operation type.

    Args:
        function: computes the results from keyword arguments.
        parameters: name to kind.
        takes_context: the function has a parameter `context`.
        takes_blocks: the function has a parameter `blocks`, the parts of the program that it runs.
        moves_data: results consist of elements of the inputs or are rounded already.
    """

    function: Callable[..., Any]
    parameters: dict[str, Parameter]
    takes_context: bool
    moves_data: bool
    takes_blocks: bool = False


_OPS: dict[str, Op] = {}


def op(*names: str, moves_data: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function under one or several operation types.

    Args:
        names: operation types; the name of the function if there are none.
        moves_data: results need no rounding.

    Returns:
        A decorator that returns the function unchanged.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        parameters, given = _parameters(function)
        for name in names or (function.__name__,):
            _OPS[name] = Op(function, parameters, "Context" in given, moves_data, "list[Block]" in given)
        return function

    return register


def _parameters(function: Callable[..., Any]) -> tuple[dict[str, Parameter], set[str]]:
    """Returns the parameters of an operation, and the annotations of what the evaluator gives besides."""
    parameters = {}
    given = set()
    for name, parameter in inspect.signature(function).parameters.items():
        # Annotations are strings: every module of operations imports them from __future__.
        annotation = str(parameter.annotation)
        if annotation in ("Context", "list[Block]"):
            given.add(annotation)
            continue
        kind = annotation.removesuffix(" | None")
        if kind not in KINDS:
            raise TypeError(f"{function.__name__}: parameter {name} has the unknown kind {annotation}")
        parameters[name] = Parameter(kind, parameter.default is not inspect.Parameter.empty)
    return parameters, given


def registered() -> dict[str, Op]:
    """Returns the operations of the modules that were imported; `table.operations` imports all."""
    return _OPS
