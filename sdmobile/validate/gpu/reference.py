"""Inputs for a file that comes without any, and its outputs on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[Any]]


def made_up_inputs(path: Path, seed: int = 0) -> list[dict[str, NDArray[Any]]]:
    """Returns one sample for a file: normally distributed numbers, and zeros where integers are wanted."""
    random = np.random.default_rng(seed)
    details = _signature(path).get_input_details()
    sample: dict[str, NDArray[Any]] = {}
    for name, detail in details.items():
        shape = tuple(int(size) for size in detail["shape"])
        floats = np.issubdtype(detail["dtype"], np.floating)
        sample[name] = random.standard_normal(shape).astype(np.float32) if floats else np.zeros(shape, np.int32)
    return [sample]


def cpu_outputs(path: Path, samples: Sequence[Arrays]) -> list[dict[str, NDArray[Any]]]:
    """Returns what LiteRT computes on the CPU."""
    runner = _signature(path)
    return [{name: np.array(value) for name, value in runner(**sample).items()} for sample in samples]


def _signature(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    return interpreter.get_signature_runner(next(iter(interpreter.get_signature_list())))
