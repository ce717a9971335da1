"""Reads a saved ML Program and computes its outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from sdmobile.validate.mlprogram import ir, wire
from sdmobile.validate.mlprogram.errors import InputError
from sdmobile.validate.mlprogram.package import Package, open_package
from sdmobile.validate.mlprogram.schema import MESSAGES
from sdmobile.validate.mlprogram.types import FLOATS, NamedType

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "float16"]
DEFAULT_CACHE_BYTES = 2 << 30


def read_program(path: Path) -> tuple[Package, ir.Function]:
    """Reads the program of a package without its weights and without torch.

    Args:
        path: the `.mlpackage` folder.

    Returns:
        Where the files are, and the function.

    Raises:
        PackageError: a file is missing or corrupt.
        UnsupportedError: the model is not an ML Program of fixed shapes.
    """
    package = open_package(Path(path))
    model = wire.decode(memoryview(package.model.read_bytes()), "Model", MESSAGES)
    return package, ir.build(model)


class MLProgram:
    """A saved ML Program that can be run on any machine, from the bytes that ship.

    Args:
        path: the `.mlpackage` folder.
        precision: "float32": weights as stored, all arithmetic in float32. "float16": besides, the result of each
            operation of type float16 is rounded to float16 (too large becomes infinite), as a phone stores it.
        cache_bytes: limit for decompressed weights that are kept from one prediction to the next.

    Raises:
        PackageError: a file is missing, truncated or corrupt.
        UnsupportedOpError: an operation or attribute that the evaluator does not implement.
    """

    def __init__(
        self, path: Path | str, precision: Precision = "float32", cache_bytes: int = DEFAULT_CACHE_BYTES
    ) -> None:
        if precision not in ("float32", "float16"):
            raise InputError("The precision must be float32 or float16", precision)
        from sdmobile.validate.mlprogram.plan import make_plan
        from sdmobile.validate.mlprogram.weights import Weights

        self.path = Path(path)
        self.precision = precision
        half = precision == "float16"
        package, self._function = read_program(self.path)
        self._weights = Weights(package, half, cache_bytes)
        self._plan = make_plan(self._function, self._weights, half)

    @property
    def inputs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and element type of each input."""
        return {item.name: (item.type.shape, item.type.dtype) for item in self._function.inputs}

    @property
    def outputs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and element type of each output."""
        return {item.name: (item.type.shape, item.type.dtype) for item in self._function.outputs}

    @property
    def specification_version(self) -> int:
        """Format version of the file; 7, 8 and 9 are iOS 16, 17 and 18."""
        return self._function.specification_version

    def operations(self) -> Iterator[ir.Operation]:
        """Yields all operations in the order of the program, constants included."""
        yield from self._function.operations

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Computes the outputs.

        Args:
            inputs: one array per input, of its shape; floats as float16 or float32, integers of any type that fit.

        Returns:
            Output name to array of the declared element type.

        Raises:
            InputError: a name, shape or element type is wrong.
            UnsupportedOpError: a value for which the result of an operation is undefined.
        """
        from sdmobile.validate.mlprogram.execution import run

        expected = {item.name: item for item in self._function.inputs}
        if set(inputs) != set(expected):
            raise InputError("The inputs must be those of the program", sorted(inputs), f"Give {sorted(expected)}")
        values = {name: self._input(item, inputs[name]) for name, item in expected.items()}
        results = run(self._plan, values, self._weights)
        # A copy, since a result may share the memory of an input or of the weight file.
        return {item.name: np.array(results[item.name].numpy(), item.type.dtype) for item in self._function.outputs}

    def _input(self, item: NamedType, array: np.ndarray) -> torch.Tensor:
        import torch

        if array.shape != item.type.shape:
            raise InputError(f"Input '{item.name}' must have the shape {item.type.shape}", array.shape)
        if item.type.dtype in FLOATS:
            if array.dtype not in (np.float16, np.float32):
                raise InputError(f"Input '{item.name}' must be {item.type.dtype}", array.dtype, "Convert it")
            tensor = torch.from_numpy(np.array(array, np.float32))
            return tensor.half().float() if self.precision == "float16" and item.type.dtype == "float16" else tensor
        limits = np.iinfo(item.type.dtype)
        if array.dtype.kind not in "iu" or (array.size and (array.min() < limits.min or array.max() > limits.max)):
            raise InputError(f"Input '{item.name}' must hold integers that fit {item.type.dtype}", array.dtype)
        return torch.from_numpy(array.astype(np.int32))
