"""Says what is wrong inside a failing part, as far as its constants tell it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.basics.float16 import LEAST_EPSILON, SMALLEST

if TYPE_CHECKING:
    from numpy.typing import NDArray

HALF = 2e-3  # relative tolerance of a value that was rounded to float16
EPSILON = 1e-2  # an epsilon of 1e-5 is 1.0014e-5 in float16
_LAYOUTS = {4: ((0, 1, 2, 3), (0, 2, 3, 1))}  # convolution kernels lie as OIHW or OHWI


def weight_faults(parameters: Mapping[str, NDArray[np.float32]], constants: Mapping[str, NDArray[Any]]) -> list[str]:
    """Returns a sentence for each parameter whose values are in the file in another order.

    Args:
        parameters: of the modules concerned, by name.
        constants: of the file's operations, by name in the file.
    """
    faults = []
    arrays = {name: np.asarray(array, dtype=np.float32) for name, array in constants.items() if array.size > 1}
    for name, parameter in parameters.items():
        alike = {key: array for key, array in arrays.items() if array.size == parameter.size}
        if parameter.size < 2 or not alike or any(_holds(array, parameter) for array in alike.values()):
            continue
        for key, array in alike.items():
            if _equal(np.sort(array, axis=None), np.sort(parameter, axis=None)):
                faults.append(f"{key} holds the values of {name} {_disorder(array, parameter)}")
                break
    return faults


def epsilon_faults(expected: Iterable[float], constants: Mapping[str, NDArray[Any]]) -> list[str]:
    """Returns a sentence for each epsilon that no scalar of the file's operations equals, nor its root.

    A norm that scales its input first adds (s·√ε)², where PyTorch adds ε; a factor that float16 cannot hold is written
    as one from 1 to 2 and another (`split_constants`).

    Args:
        expected: PyTorch's epsilons in the modules concerned.
        constants: of the file's operations, by name in the file.
    """
    scalars = {name: float(array.reshape(-1)[0]) for name, array in constants.items() if array.size == 1}
    named = {name: value for name, value in scalars.items() if "epsilon" in name}
    candidates = named or {name: value for name, value in scalars.items() if 0 < abs(value) < 1}
    factors = [1.0, *(value for value in scalars.values() if 1 < value < 2 and not named)]
    faults = []
    for value in dict.fromkeys(expected):
        held = (candidate * factor for candidate in candidates.values() for factor in factors)
        if candidates and not any(_is_epsilon(one, value) for one in held):
            listed = ", ".join(f"{candidate:.3g} ({name})" for name, candidate in candidates.items())
            faults.append(f"PyTorch has the epsilon {value:g}; the file has {listed}")
    return faults


def _is_epsilon(candidate: float, value: float) -> bool:
    rounded = max(float(np.float16(value)), SMALLEST)  # 1e-6 becomes 1.013e-6 there; coremltools lets none vanish
    raised = math.sqrt(max(value, LEAST_EPSILON))
    return any(abs(candidate - wanted) <= EPSILON * wanted for wanted in (value, math.sqrt(value), rounded, raised))


def _holds(array: NDArray[np.float32], parameter: NDArray[np.float32]) -> bool:
    """Whether an array is a parameter as exporters store it."""
    orders = _LAYOUTS.get(parameter.ndim, (tuple(range(parameter.ndim)),))
    return any(_equal(array.reshape(-1), parameter.transpose(order).reshape(-1)) for order in orders)


def _disorder(array: NDArray[np.float32], parameter: NDArray[np.float32]) -> str:
    for order in permutations(range(parameter.ndim)):
        if _equal(array.reshape(-1), parameter.transpose(order).reshape(-1)):
            return f"transposed, axes {list(order)}"
    if parameter.shape[0] % 2 == 0:
        swapped = np.roll(parameter, parameter.shape[0] // 2, axis=0)
        if _holds(array, swapped):
            return "with the two halves of its first axis exchanged"
    return "in another order"


def _equal(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    return bool(np.allclose(a, b, rtol=HALF, atol=1e-7))
