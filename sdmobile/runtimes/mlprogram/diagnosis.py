"""Where float16 fails: a program run in float16 and float32 side by side, operation by operation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sdmobile.formats.mlprogram.modules import module_near
from sdmobile.runtimes.mlprogram.precision import Precision

if TYPE_CHECKING:
    import torch

LARGEST = 65504.0
"""Largest finite float16 number."""
UNIT = 2.0**-11
"""Largest relative error of one rounding to float16."""
JUMP = 10.0
FLOOR = 0.01


@dataclass(frozen=True)
class OperationError:
    """How one result differs between the two runs.

    Args:
        index: place of the operation in the program.
        name: its name.
        type: its type.
        dtype: declared type of the result.
        largest: largest finite magnitude in float32.
        overflows: elements that are not finite in float16 but are in float32.
        error: ‖float16 − float32‖ / ‖float32‖ over the finite elements; 0 for integers.
        error_before: the largest `error` among the values that the operation takes.
    """

    index: int
    name: str
    type: str
    dtype: str
    largest: float
    overflows: int
    error: float
    error_before: float

    @property
    def growth(self) -> float:
        """By what factor the error grew, one rounding being the least that is counted as error before."""
        return self.error / max(self.error_before, UNIT)


@dataclass(frozen=True)
class Fault:
    """The first operation that float16 does not compute well enough.

    Args:
        kind: "overflow": the result is not finite in float16; "jump": its error grew as defined in `first_fault`.
        module: path of the source module, "" if no name tells it.
        measured: the operation and its figures.
    """

    kind: Literal["overflow", "jump"]
    module: str
    measured: OperationError

    def message(self) -> str:
        """Returns one sentence for people."""
        at = f"{self.measured.type} '{self.measured.name}'" + (f" of module {self.module}" if self.module else "")
        if self.kind == "overflow":
            largest = f"largest magnitude in float32 {self.measured.largest:.3g}, float16 holds {LARGEST:.0f}"
            return f"{at} overflows float16 in {self.measured.overflows} elements ({largest})"
        errors = f"relative error {self.measured.error:.2g} after {self.measured.error_before:.2g}"
        return f"the error jumps in {at}: {errors}"

    def to_json(self) -> dict[str, Any]:
        """Returns kind, module, sentence and figures as a JSON object."""
        return {
            "kind": self.kind,
            "module": self.module,
            "message": self.message(),
            **asdict(self.measured),
        }


def compare(
    path: Path | str,
    inputs: Mapping[str, np.ndarray],
    precision: Precision = "float16",
    function: str | None = None,
) -> Iterator[OperationError]:
    """Yields the figures of each operation with a floating-point result, in the order of the program.

    Both runs drop a value after its last use, so memory stays at twice that of one run.

    Args:
        path: the `.mlpackage` folder.
        inputs: as for `MLProgram.predict`.
        precision: which rounding is compared with float32.
        function: which function, if the package holds several.
    """
    from sdmobile.runtimes.mlprogram.program import MLProgram

    # Every weight is used once: nothing is gained by keeping it.
    rounded = MLProgram(path, precision, cache_bytes=0, function=function, fuse=False)
    exact = MLProgram(path, "float32", cache_bytes=0, function=function, fuse=False)
    places = {operation.name: index for index, operation in enumerate(exact.operations())}
    errors: dict[str, float] = {}
    for (step, low), (_, high) in zip(rounded.results(inputs), exact.results(inputs), strict=True):
        before = max((errors.get(name, 0.0) for name in step.used()), default=0.0)
        for output in step.operation.outputs:
            a, b = low[output.name], high[output.name]
            if not a.is_floating_point():
                continue
            largest, overflows, error = _difference(a, b)
            errors[output.name] = error
            name, type_ = step.operation.name, step.operation.type
            yield OperationError(places[name], name, type_, output.type.dtype, largest, overflows, error, before)
        for name in step.release:
            errors.pop(name, None)


def first_fault(
    path: Path | str,
    inputs: Mapping[str, np.ndarray],
    precision: Precision = "float16",
    function: str | None = None,
    jump: float = JUMP,
    floor: float = FLOOR,
    modules: Iterable[str] = (),
) -> Fault | None:
    """Returns the first operation that overflows float16 or where the error jumps, or None.

    An overflow is an element that is not finite in float16 but is in float32. The error jumps where the relative error
    of a result is at least `floor` and at least `jump` times that of the operation's inputs, which count as at least
    one rounding, 2⁻¹¹.

    Args:
        path: the `.mlpackage` folder.
        inputs: as for `MLProgram.predict`.
        precision: which rounding is compared with float32.
        function: which function, if the package holds several.
        jump: least factor of the error.
        floor: least relative error; 0.01 is 40 dB.
        modules: dotted paths of the source's modules, to name one exactly.

    Returns:
        The fault, with the source module as far as the names tell it.
    """
    for measured in compare(path, inputs, precision, function):
        if measured.overflows:
            return _fault("overflow", path, function, measured, modules)
        if measured.error >= floor and measured.growth >= jump:
            return _fault("jump", path, function, measured, modules)
    return None


def _fault(
    kind: Literal["overflow", "jump"],
    path: Path | str,
    function: str | None,
    measured: OperationError,
    modules: Iterable[str],
) -> Fault:
    from sdmobile.formats.mlprogram.read import read_program

    operations = read_program(path, function)[1].operations
    return Fault(kind, module_near(operations, measured.index, modules), measured)


def _difference(low: torch.Tensor, high: torch.Tensor) -> tuple[float, int, float]:
    """Returns the largest finite magnitude, the number of overflows and the relative error."""
    import torch

    if not high.numel():
        return 0.0, 0, 0.0
    finite = high.isfinite()
    lost = finite & ~low.isfinite()
    reference = torch.where(finite, high, 0.0)
    difference = torch.where(finite & ~lost, low - high, 0.0)
    norm = float(torch.linalg.vector_norm(reference))
    distance = float(torch.linalg.vector_norm(difference))
    error = distance / norm if norm else float("inf") if distance else 0.0
    return float(reference.abs().max()), int(lost.sum()), error
