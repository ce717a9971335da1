"""Reads a written package with the evaluator's reader and compares every weight with what was meant to be stored."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.errors import ComponentError
from sdmobile.formats.mlprogram.read import function_names, read_program

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray


_THREADS = 2


def digest(weight: NDArray[Any]) -> bytes:
    """Returns a hash of a weight's shape and its float16 values, so that whole weights need not be kept."""
    half = np.ascontiguousarray(weight, np.float16)
    hashed = hashlib.sha256(repr(half.shape).encode())
    hashed.update(half.reshape(-1).view(np.uint8).data)
    return hashed.digest()


def check_weights(path: Path, expected: Mapping[str, bytes]) -> int:
    """Decodes weights from the bytes of a package and compares them exactly.

    Args:
        path: the `.mlpackage` folder.
        expected: name of the constant in the program to the `digest` of its decoded value.

    Returns:
        Number of weights compared.

    Raises:
        ComponentError: a weight is missing or another than expected.
    """
    from sdmobile.runtimes.mlprogram.constants import named_constants, open_weights

    compared: set[str] = set()
    for function in function_names(path):
        package, program = read_program(path, function)
        weights = open_weights(package)
        named = (
            (name if name not in compared else f"{function}/{name}", stored)
            for name, stored in named_constants(program)
        )
        wanted = {key: stored for key, stored in named if key in expected}
        with ThreadPoolExecutor(_THREADS) as pool:
            digests = pool.map(lambda stored, weights=weights: digest(weights.array(stored)), wanted.values())
            for key, decoded in zip(wanted, digests, strict=True):
                if decoded != expected[key]:
                    raise ComponentError("a compressed weight must decode to what was encoded", f"{key} in {path.name}")
        compared |= set(wanted)
    missing = sorted(set(expected) - compared)
    if missing:
        raise ComponentError("every compressed weight must be in the file", f"{missing[:3]} not in {path.name}")
    return len(compared)


def decoded_weights(path: Path, names: Collection[str]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yields constants of a package by name, decoded as an iPhone would, in the order of the program.

    Args:
        path: the `.mlpackage` folder.
        names: which ones; those that are not there are passed over.
    """
    from sdmobile.runtimes.mlprogram.constants import named_constants, open_weights

    for function in function_names(path):
        package, program = read_program(path, function)
        weights = open_weights(package)
        for name, stored in named_constants(program):
            if name in names:
                yield name, weights.array(stored)
