"""Inputs for a file that comes without recorded ones, such that its outputs depend on them.

An output that has one value everywhere agrees with anything that computes nothing: it is no evidence. So several kinds
of numbers are tried on the CPU, the most ordinary first, until every output varies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.formats.errors import FormatError
from sdmobile.runtimes.litert_process import LiteRTProcess

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[Any]]
    Draw = Callable[[np.random.Generator, tuple[int, ...]], NDArray[Any]]

_MOST_TOKENS = 8  # nearly every table has so many rows


@dataclass(frozen=True)
class MadeUp:
    """A call of a file on made-up inputs.

    Args:
        inputs: arrays by name.
        outputs: what LiteRT computes on the CPU.
        constant: names of the outputs that have one value everywhere, or are not finite.
    """

    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, NDArray[Any]]
    constant: tuple[str, ...]


def _normal(random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[Any]:
    return random.standard_normal(shape)


_FLOATS: tuple[Draw, ...] = (
    _normal,
    lambda random, shape: random.random(shape),  # for logarithms and roots
    lambda random, shape: 20.0 * random.standard_normal(shape),
    lambda random, shape: 0.05 * random.standard_normal(shape),
)


def exciting_inputs(path: Path, seed: int = 0) -> MadeUp:
    """Returns inputs on which every output of a file varies, or the best of those that were tried.

    Args:
        path: the `.tflite` file.
        seed: of the random numbers.

    Raises:
        FormatError: LiteRT runs the file on none of them.
    """
    run = LiteRTProcess(path)
    best: MadeUp | None = None
    refusal: FormatError | None = None
    for inputs in _candidates(run.inputs, seed):
        try:
            outputs = run(inputs)
        except FormatError as error:  # a table of fewer rows
            refusal = error
            continue
        made = MadeUp(inputs, outputs, tuple(name for name, value in outputs.items() if not varies(value)))
        if best is None or len(made.constant) < len(best.constant):
            best = made
        if not best.constant:
            break
    if best is None:
        raise refusal or FormatError("a file to check must take an input", path, "Give another file")
    return best


def varies(array: NDArray[Any]) -> bool:
    """Whether an output tells something: finite, and not one value everywhere; a single number must not be 0."""
    values = np.asarray(array, np.float64).reshape(-1)
    if values.size == 0 or not np.isfinite(values).all():
        return False
    return bool(values[0] != 0) if values.size == 1 else bool(np.any(values != values[0]))


def cpu_outputs(path: Path, samples: Sequence[Arrays]) -> list[dict[str, NDArray[Any]]]:
    """Returns what LiteRT computes on the CPU."""
    run = LiteRTProcess(path)
    return [run(sample) for sample in samples]


def _candidates(wanted: Mapping[str, tuple[tuple[int, ...], str]], seed: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Yields inputs: each kind of numbers with small random integers, at last with zeros for integers."""
    for floats, most in (*((floats, _MOST_TOKENS) for floats in _FLOATS), (_normal, 1)):
        random = np.random.default_rng(seed)
        sample: dict[str, NDArray[Any]] = {}
        for name, (shape, kind) in wanted.items():
            dtype = np.dtype(kind)
            if np.issubdtype(dtype, np.floating):
                sample[name] = floats(random, shape).astype(dtype)
            else:
                sample[name] = random.integers(0, min(2, most) if dtype == np.bool_ else most, shape).astype(dtype)
        yield sample
