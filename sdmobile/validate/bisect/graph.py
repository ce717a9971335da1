"""An exported file as a graph of named values, the same for every format."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class FileOp:
    """One run-time operation of a file.

    Args:
        name: for people.
        type: such as "conv" or "CONV_2D".
        inputs: names of the values it takes, constants excluded.
        outputs: names of the values it gives.
        module: path of the source module as the file's names tell it, None where they do not.
    """

    name: str
    type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    module: str | None


@dataclass(frozen=True)
class Piece:
    """A part of a file between values.

    Args:
        ops: its operations, in an order in which they can run.
        inputs: values that it takes.
        output: the value that it gives.
    """

    ops: tuple[FileOp, ...]
    inputs: tuple[str, ...]
    output: str


class ExportedGraph(ABC):
    """A file that can be looked into and cut.

    Args:
        ops: run-time operations in an order in which they can run.
        inputs: names of the file's inputs, in the order of its contract.
        output: name of its output.
    """

    def __init__(self, ops: Sequence[FileOp], inputs: Sequence[str], output: str) -> None:
        self.ops, self.inputs, self.output = tuple(ops), tuple(inputs), output

    @abstractmethod
    def values(self, inputs: Arrays) -> Iterator[tuple[str, NDArray[Any]]]:
        """Runs the file and yields its floating-point values with their names, in the order of the file."""

    @abstractmethod
    def write(self, piece: Piece, folder: Path) -> Path:
        """Writes a part as a file of its own that other tools can load, and returns its path."""

    @abstractmethod
    def run_part(self, file: Path, piece: Piece, inputs: Arrays) -> NDArray[Any]:
        """Runs what `write` wrote."""

    @abstractmethod
    def constants(self, op: FileOp) -> dict[str, NDArray[Any]]:
        """Returns the floating-point constants that an operation takes, by their names in the file."""

    def dtype_of(self, name: str) -> type[np.generic]:
        """Returns the element type that the file has for a value."""
        return np.float32

    def set_modules(self, modules: Mapping[str, str]) -> None:
        """Notes the modules of operations, by the name of their first value."""
        self.ops = tuple(replace(op, module=modules.get(op.outputs[0], op.module)) for op in self.ops)

    def piece(self, output: str, stops: set[str]) -> Piece:
        """Returns the operations that lie between some values and one that depends on them.

        Args:
            output: the value that is computed.
            stops: values that are taken as given, besides the file's inputs.
        """
        producer = {name: index for index, op in enumerate(self.ops) for name in op.outputs}
        waiting, chosen = [output], set[int]()
        inputs: dict[str, None] = {}
        while waiting:
            name = waiting.pop()
            if name != output and (name in stops or name not in producer):
                inputs[name] = None
            elif producer[name] not in chosen:
                chosen.add(producer[name])
                waiting += reversed(self.ops[producer[name]].inputs)
        return Piece(tuple(self.ops[index] for index in sorted(chosen)), tuple(inputs), output)


class ModuleNames:
    """Reads from the names in a file which module of the checkpoint a value comes from.

    Args:
        paths: of the modules, such as "down_blocks.0.resnets.0.norm1".
        bearing: those of them that have parameters of their own.
    """

    def __init__(self, paths: Sequence[str], bearing: Collection[str] = ()) -> None:
        self._paths = set(paths)
        self._bearing = set(bearing)
        self._by_identifier = {re.sub(r"\W+", "_", path): path for path in paths}

    def of_identifier(self, name: str) -> str | None:
        """Returns the module of a Core ML name: its longest beginning that is a module's path with underscores."""
        words = re.sub(r"^(?:p_)?(?:component_)?", "", name).split("_")
        for count in range(len(words), 0, -1):
            path = self._by_identifier.get("_".join(words[:count]))
            if path is not None:
                return path
        return None

    def of_location(self, name: str) -> str | None:
        """Returns the module of a LiteRT tensor: the first of the places that its name lists."""
        path = name.split(";")[0]
        return path if path in self._paths else None

    def of_path(self, name: str) -> str | None:
        """Returns the module of a path in PyTorch's spelling, with or without the wrapper's own name in front."""
        path = name.removeprefix("component.")
        return path if path in self._paths else None

    def has_parameters(self, module: str) -> bool:
        """Whether a module has parameters of its own."""
        return module in self._bearing
