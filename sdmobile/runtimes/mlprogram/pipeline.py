"""Opens whatever package of ML Programs there is: one function, or a pipeline of models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from sdmobile.formats.mlprogram.chain import Pipeline as Chain
from sdmobile.formats.mlprogram.errors import InputError
from sdmobile.formats.mlprogram.features import Feature
from sdmobile.formats.mlprogram.package import Package
from sdmobile.formats.mlprogram.read import read_model
from sdmobile.runtimes.mlprogram.precision import Precision
from sdmobile.runtimes.mlprogram.program import DEFAULT_CACHE_BYTES, MLProgram

if TYPE_CHECKING:
    from sdmobile.runtimes.mlprogram.state import State


class Pipeline:
    """Programs that run one after the other; each takes what the app gave or an earlier one computed, by name.

    Args:
        package: where the files are.
        chain: the parts.
        precision, cache_bytes: as for `MLProgram`; the cache is that of each part.
    """

    def __init__(self, package: Package, chain: Chain, precision: Precision, cache_bytes: int) -> None:
        self._chain = chain
        self._programs = [MLProgram.of(package, part, precision, cache_bytes) for part in chain.parts]

    @property
    def features(self) -> dict[str, Feature]:
        """The inputs as an app sees them."""
        return self._chain.features

    def make_state(self) -> NoReturn:
        """A pipeline has no state; raises InputError."""
        raise InputError("Only a single program has states", "a pipeline", "Predict without a state")

    def predict(self, inputs: Mapping[str, Any], state: State | None = None) -> dict[str, Any]:
        """Computes the outputs; inputs, outputs and errors are as for `MLProgram.predict`."""
        if state is not None:
            self.make_state()
        unknown = sorted(set(inputs) - set(self.features))
        if unknown:
            raise InputError("The inputs must be those of the pipeline", unknown, f"Give {sorted(self.features)}")
        values = dict(inputs)
        for part, program in zip(self._chain.parts, self._programs, strict=True):
            values.update(program.predict({name: values[name] for name in part.features if name in values}))
        return {name: values[name] for name in self._chain.outputs}


def open_model(
    path: Path | str,
    precision: Precision = "float32",
    cache_bytes: int = DEFAULT_CACHE_BYTES,
    function: str | None = None,
) -> MLProgram | Pipeline:
    """Opens a package; arguments and errors are those of `MLProgram`.

    Raises:
        UnsupportedError: besides, a part of a pipeline is not an ML Program.
    """
    package, read = read_model(path, function)
    if isinstance(read, Chain):
        return Pipeline(package, read, precision, cache_bytes)
    return MLProgram.of(package, read, precision, cache_bytes)
