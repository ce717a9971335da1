"""Reads a saved ML Program and computes its outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.formats.errors import whole
from sdmobile.formats.mlprogram import ir
from sdmobile.formats.mlprogram.errors import InputError
from sdmobile.formats.mlprogram.read import read_program
from sdmobile.formats.mlprogram.types import FLOATS, NamedType
from sdmobile.runtimes.mlprogram.exchange import answers, taken
from sdmobile.runtimes.mlprogram.precision import Precision, rounding

if TYPE_CHECKING:
    import torch

    from sdmobile.formats.mlprogram.features import Feature
    from sdmobile.formats.mlprogram.package import Package
    from sdmobile.runtimes.mlprogram.state import State
    from sdmobile.runtimes.mlprogram.steps import Step

DEFAULT_CACHE_BYTES = 2 << 30


class MLProgram:
    """A saved ML Program that can be run on any machine, from the bytes that ship.

    Args:
        path: the `.mlpackage` folder.
        precision: "float32": weights as stored, all arithmetic in float32. "float16-float32acc": besides, the result
            of each operation of type float16 is rounded to float16 (too large becomes infinite), as a phone stores it.
            "float16": besides, partial sums in reductions, convolutions and matrix products are rounded, as a unit
            that accumulates in float16 does (`ops/sums.py`).
        cache_bytes: limit for decompressed weights that are kept from one prediction to the next; up to a quarter as
            much again holds float32 copies of weights.
        function: which function to run, if the package holds several; by default the one it names as default.
        fuse: in float32, run attention that the program writes out as one step.

    Raises:
        PackageError: a file is missing, truncated or corrupt.
        UnsupportedOpError: an operation or attribute that the evaluator does not implement.
        InputError: there is no such precision or function.
    """

    def __init__(
        self,
        path: Path | str,
        precision: Precision = "float32",
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        function: str | None = None,
        fuse: bool = True,
    ) -> None:
        rounding(precision)  # one that is not known is refused before anything is read
        package, read = read_program(Path(path), function)
        self._open(package, read, precision, cache_bytes, fuse)

    @classmethod
    def of(cls, package: Package, function: ir.Function, precision: Precision, cache_bytes: int) -> MLProgram:
        """Prepares a function that was read before, as a part of a pipeline is."""
        program = cls.__new__(cls)
        program._open(package, function, precision, cache_bytes)
        return program

    def _open(
        self, package: Package, function: ir.Function, precision: Precision, cache_bytes: int, fuse: bool = True
    ) -> None:
        self.path = package.path
        self.precision = precision
        self._rounding = rounding(precision)
        from sdmobile.runtimes.mlprogram.plan import make_plan
        from sdmobile.runtimes.mlprogram.weights import Weights

        self._function = function
        self._weights = Weights(package, self._rounding, cache_bytes)
        with whole(self.path):
            self._plan = make_plan(self._function, self._weights, self._rounding, fuse)

    @property
    def function(self) -> str:
        """Name of the function that runs."""
        return self._function.name

    @property
    def inputs(self) -> dict[str, tuple[tuple[int | None, ...], str]]:
        """Shape (None where a size may vary) and element type of each input."""
        return {item.name: (item.type.shape, item.type.dtype) for item in self._function.inputs}

    @property
    def outputs(self) -> dict[str, tuple[tuple[int | None, ...], str]]:
        """Shape (None where a size may vary) and element type of each output."""
        return {item.name: (item.type.shape, item.type.dtype) for item in self._function.outputs}

    @property
    def features(self) -> dict[str, Feature]:
        """The inputs as an app sees them: pictures, sizes that may vary, default values."""
        return self._function.features

    @property
    def states(self) -> dict[str, tuple[tuple[int | None, ...], str]]:
        """Shape and element type of each state."""
        return {item.name: (item.type.shape, item.type.dtype) for item in self._function.states}

    @property
    def specification_version(self) -> int:
        """Format version of the file; 7, 8 and 9 are iOS 16, 17 and 18."""
        return self._function.specification_version

    def operations(self) -> Iterator[ir.Operation]:
        """Yields all operations in the order of the program, constants included."""
        yield from self._function.operations

    def decode_weights(self) -> None:
        """Decodes the compressed weights now, up to the limit of the cache, instead of at their first use."""
        self._weights.decode_all(self._plan.constants())

    def make_state(self) -> State:
        """Returns a state of zeros, for `predict` to use and change."""
        from sdmobile.runtimes.mlprogram.state import State

        return State(self._function.states)

    def predict(self, inputs: Mapping[str, Any], state: State | None = None) -> dict[str, Any]:
        """Computes the outputs.

        Args:
            inputs: one array per input, of its shape; floats as float16 or float32, integers of any type that fit;
                a PIL image for a picture. An input that has a default value may be left out.
            state: what `make_state` returned, if the program has states; it is changed.

        Returns:
            Output name to array of the declared element type, or to a PIL image. A classifier returns the most
            probable class, and a dictionary of all classes with their probabilities, in place of these.

        Raises:
            InputError: a name, shape or element type is wrong, or there is no state for a program that has some.
            UnsupportedOpError: a value for which the result of an operation is undefined.
        """
        from sdmobile.runtimes.mlprogram.execution import run

        if self._function.states and state is None:
            raise InputError("A program with states must be given one", "none", "Give what make_state() returns")
        values = self._values(inputs, state)
        with whole(self.path):
            results = run(self._plan, values, self._weights)
            if state is not None:
                state.tensors = {item.name: results[item.name] for item in self._function.states}
            return answers(self._function, results)

    def results(self, inputs: Mapping[str, np.ndarray]) -> Iterator[tuple[Step, dict[str, torch.Tensor]]]:
        """Runs step by step and yields each step with the values at hand, which the next step may drop.

        Raises:
            InputError, UnsupportedOpError: as `predict`.
        """
        from sdmobile.runtimes.mlprogram.execution import run_steps

        values = self._values(inputs, None)
        for step in run_steps(self._plan, values, self._weights):
            yield step, values

    def _values(self, inputs: Mapping[str, Any], state: State | None) -> dict[str, torch.Tensor]:
        arrays = taken(self._function, inputs)
        values = {item.name: self._input(item, arrays[item.name]) for item in self._function.inputs}
        return {**values, **(state or self.make_state()).tensors}

    def _input(self, item: NamedType, array: np.ndarray) -> torch.Tensor:
        import torch

        array = array.reshape(()) if array.shape == (1,) and not item.type.shape else array
        if not item.type.fits(array.shape):
            raise InputError(f"Input '{item.name}' must have the shape {item.type.shape}", array.shape)
        self._function.features[item.name].check_shape(array.shape)
        if item.type.dtype in FLOATS:
            if array.dtype not in (np.float16, np.float32):
                raise InputError(f"Input '{item.name}' must be {item.type.dtype}", array.dtype, "Convert it")
            tensor = torch.from_numpy(np.array(array, np.float32))
            return tensor.half().float() if self._rounding.results and item.type.dtype == "float16" else tensor
        limits = np.iinfo(item.type.dtype)
        array = array.astype(np.uint8) if self._function.features[item.name].color else array
        if array.dtype.kind not in "iu" or (array.size and (array.min() < limits.min or array.max() > limits.max)):
            raise InputError(f"Input '{item.name}' must hold integers that fit {item.type.dtype}", array.dtype)
        return torch.from_numpy(array.astype(np.int32))
