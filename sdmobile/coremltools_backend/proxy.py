"""What coremltools calls in place of Core ML: a model that the evaluator runs.

Names and arguments of the methods are those of coremltools' native class (`coremlpython/CoreMLPython.mm`); what goes
wrong is a RuntimeError, as it is there.
"""

from __future__ import annotations

import atexit
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np

from sdmobile.basics.scratch import temporary_folder
from sdmobile.errors import SdmobileError, UnsupportedError
from sdmobile.formats.mlprogram.features import Feature
from sdmobile.formats.mlprogram.types import FLOATS
from sdmobile.runtimes.mlprogram.pipeline import open_model
from sdmobile.runtimes.mlprogram.precision import Precision
from sdmobile.runtimes.mlprogram.state import State

_UNTIL_EXIT = ExitStack()
atexit.register(_UNTIL_EXIT.close)
_NEWEST_SPECIFICATION = 10
"""That of iOS 26, the newest that coremltools 9 writes."""


def precision_of(compute_units: str, hints: Mapping[str, str]) -> Precision:
    """Returns how the evaluator rounds for a choice of compute units.

    Core ML may compute in more than the declared precision, and does on a CPU without float16; there is nothing to
    round then. A GPU and the Neural Engine store float16, and sum in float32 unless an app allows the GPU less.
    """
    if compute_units == "CPU_ONLY":
        return "float32"
    low_sums = hints.get("allowLowPrecisionAccumulationOnGPU") == "True"
    return "float16" if low_sums and compute_units in ("ALL", "CPU_AND_GPU") else "float16-float32acc"


class ModelProxy:
    """A model that is open.

    Args:
        path: an `.mlpackage`, or a copy of one that is called `.mlmodelc`.
        compute_units: name of a `coremltools.ComputeUnit`.
        function_name: which function to run; "" for the default one.
        optimization_hints: name to value; only that of low-precision sums means something here.
        asset: must be None.

    Raises:
        RuntimeError: the package is damaged, or holds what the evaluator does not run.
    """

    precision: ClassVar[Precision | None] = None
    """Chosen for all compute units, or None."""
    tally: ClassVar[Counter[str]] = Counter()
    """How many predictions were made, and how many models were refused and were no ML Programs, in this process."""

    def __init__(
        self, path: str, compute_units: str, function_name: str, optimization_hints: Mapping[str, str], asset: Any
    ) -> None:
        if asset is not None:
            _not_here("A model asset")
        self._path = path
        begun = time.perf_counter_ns()
        try:
            if Path(path).is_file():
                self.tally["other_kind"] += 1
                raise UnsupportedError(
                    "The Core ML evaluator runs ML Programs, which are packages", f"{path} is a file"
                )
            precision = self.precision or precision_of(compute_units, optimization_hints)
            self._model = open_model(path, precision, function=function_name or None)
        except SdmobileError as error:
            self.tally["refused"] += 1
            raise RuntimeError(str(error)) from error
        self._loaded = time.perf_counter_ns() - begun
        self._predicted: int | None = None

    def predict(self, data: Mapping[str, Any], state: StateProxy | None = None) -> dict[str, Any]:
        """Returns the outputs: floats as float32, a scalar with the shape (1), pictures, a class and its table."""
        self.tally["predicted"] += 1
        begun = time.perf_counter_ns()
        with _as_core_ml_says():
            given = {name: _input(self._model.features.get(name), value) for name, value in data.items()}
            found = self._model.predict(given, None if state is None else state.state)
        self._predicted = time.perf_counter_ns() - begun
        return {name: _output(value) for name, value in found.items()}

    def batchPredict(self, batch: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Returns the outputs for each of several inputs."""
        begun = time.perf_counter_ns()
        found = [self.predict(data) for data in batch]
        self._predicted = time.perf_counter_ns() - begun
        return found

    def newState(self) -> StateProxy:
        """Returns a state of zeros."""
        with _as_core_ml_says():
            return StateProxy(self._model.make_state())

    def get_compiled_model_path(self) -> str:
        """Returns the package itself: nothing is compiled, and a copy of it can be opened as a compiled model."""
        return self._path

    def get_load_duration_in_nano_seconds(self) -> int:
        """Returns how long the model took to open."""
        return self._loaded

    def get_last_predict_duration_in_nano_seconds(self) -> int | None:
        """Returns how long the last prediction took, None before the first."""
        return self._predicted

    @staticmethod
    def maximum_supported_specification_version() -> int:
        """Returns the newest format version that is read."""
        return _NEWEST_SPECIFICATION

    @staticmethod
    def compileModel(path: str) -> str:
        """Returns a copy of a package, called `.mlmodelc`, in a folder that is gone when the process ends."""
        if not Path(path).is_dir():
            _not_here("A model that is not a package")
        target = _UNTIL_EXIT.enter_context(temporary_folder("compiled")) / f"{Path(path).stem}.mlmodelc"
        return str(shutil.copytree(path, target))

    @staticmethod
    def auto_set_specification_version(spec: Any) -> Any:
        """Returns a specification as it is: Core ML would lower its version where that loses nothing."""
        return spec

    @staticmethod
    def get_available_compute_devices() -> list[Any]:
        """Returns none: a device is a part of Apple's hardware."""
        return []

    get_all_compute_devices = get_available_compute_devices

    @staticmethod
    def get_model_structure(path: str) -> NoReturn:
        _not_here("The structure of a compiled model")

    @staticmethod
    def get_compute_plan(path: str, compute_units: str) -> NoReturn:
        _not_here("A compute plan")

    @staticmethod
    def create_model_asset_from_path(path: str) -> NoReturn:
        _not_here("A model asset")

    @staticmethod
    def create_model_asset_from_memory(spec: bytes, blobs: Mapping[str, bytes]) -> NoReturn:
        _not_here("A model asset")


class StateProxy:
    """A state as `coremltools.models.model.MLState` holds it.

    Args:
        state: of the evaluator.
    """

    def __init__(self, state: State) -> None:
        self.state = state

    def read_state(self, name: str) -> np.ndarray:
        """Returns a copy of one state; raises RuntimeError if there is none so called."""
        with _as_core_ml_says():
            return _output(self.state.read(name))

    def write_state(self, name: str, value: Any) -> None:
        """Replaces one state; raises RuntimeError if there is none so called, or the shape is another."""
        with _as_core_ml_says():
            self.state.write(name, np.asarray(value))


def _input(feature: Feature | None, value: Any) -> Any:
    """Returns a value of whatever numbers as those that an input is declared to have; pictures as they are."""
    if feature is None or feature.color:
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise RuntimeError(f"value type not convertible: input '{feature.name}' is {array.dtype}")
    return array.astype(np.float32 if feature.dtype in FLOATS else np.int32)


def _output(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    return np.atleast_1d(value.astype(np.float32) if value.dtype.kind == "f" else value)


@contextmanager
def _as_core_ml_says() -> Iterator[None]:
    try:
        yield
    except SdmobileError as error:
        raise RuntimeError(str(error)) from error


def _not_here(what: str) -> NoReturn:
    raise RuntimeError(f"{what} needs Core ML itself, which only a Mac has; sdmobile's evaluator runs packages")
