"""Says in words how a stored array differs from its parameter, and which norms have another epsilon."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.validate.bisect.diagnose import epsilon_faults
from sdmobile.validate.weights.agreement import misfits
from sdmobile.validate.weights.transforms import Form, Parameter, forms

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from sdmobile.validate.weights.stored import Epsilon, StoredArray

Read = Callable[["StoredArray"], "NDArray[Any]"]
_SAME_FACTOR = 1e-2
_SEARCHED = 40  # arrays of other modules that a lost parameter is looked for in


def is_identity(parameter: Parameter) -> bool:
    """Whether a parameter adds 0 or multiplies by 1, so that converters leave it out."""
    kind = parameter.name.rpartition(".")[2]
    neutral = {"bias": 0.0, "weight": 1.0}.get(kind)
    return neutral is not None and parameter.array.ndim == 1 and bool(np.all(parameter.array == neutral))


def diagnose(parameter: Parameter, own: Sequence[StoredArray], read: Read, elsewhere: Sequence[StoredArray]) -> str:
    """Returns what is wrong with a parameter that was not found.

    Args:
        parameter: of the checkpoint.
        own: arrays of its module that have its size.
        read: returns an array's values.
        elsewhere: arrays of its size in other modules.
    """
    for stored in own:
        values = read(stored)
        whole = [form for form in forms(parameter, stored) if form.values.size == values.size]
        if not whole:
            continue
        nearest = min(whole, key=lambda form: int(misfits(values, form.values, stored.coding).sum()))
        holder = next((other.name for other in elsewhere[:_SEARCHED] if _holds(parameter, other, read)), None)
        moved = f"; the values are those of {holder}" if holder is not None else ""
        return f"{parameter.name}: {stored.name} {_difference(parameter, stored, values, nearest)}{moved}"
    for other in elsewhere[:_SEARCHED]:
        if _holds(parameter, other, read):
            return f"{parameter.name}: its module does not take it; {other.name} holds its values"
    return f"{parameter.name}: no array of the file holds its {parameter.array.size} values"


def _holds(parameter: Parameter, stored: StoredArray, read: Read) -> bool:
    values = read(stored)
    return any(not misfits(values, f.values, stored.coding).any() for f in forms(parameter, stored) if _whole(f))


def _whole(form: Form) -> bool:
    return form.part == (0.0, 1.0)


def _difference(parameter: Parameter, stored: StoredArray, values: NDArray[Any], form: Form) -> str:
    """Returns how values differ from the nearest form of a parameter."""
    wrong = misfits(values, form.values, stored.coding)
    if not np.isfinite(values).all():
        return f"has {int((~np.isfinite(values)).sum())} values that are not finite"
    order = _transposed(parameter, stored, values)
    if order is not None:
        return f"holds the values transposed, axes {list(order)}"
    factor = _factor(values, form.values)
    if factor is not None:
        return f"holds the values multiplied by {factor:.4g}"
    rows = np.asarray(wrong.reshape(wrong.shape[0], -1).any(1))
    zeros = int((values.reshape(values.shape[0], -1)[rows] == 0).all(1).sum())
    where = f"in {int(rows.sum())} of {len(rows)} rows" if values.ndim > 1 else ""
    told = f", {zeros} of these are 0" if values.ndim > 1 and zeros else ""
    told = ", which are 0" if values.ndim == 1 and not np.any(values[wrong]) else told
    return f"differs in {int(wrong.sum())} of {wrong.size} values {where}".rstrip() + told


def _transposed(parameter: Parameter, stored: StoredArray, values: NDArray[Any]) -> tuple[int, ...] | None:
    for order in permutations(range(parameter.array.ndim)):
        turned = parameter.array.transpose(order).reshape(values.shape)
        if not misfits(values, turned, stored.coding).any():
            return order
    return None


def _factor(values: NDArray[Any], exact: NDArray[Any]) -> float | None:
    """Returns the number that all values are multiplied by, None if there is none."""
    square = float(np.square(exact, dtype=np.float64).sum())
    if square == 0.0 or not np.any(values):
        return None
    factor = float((values.astype(np.float64) * exact).sum()) / square
    left = float(np.square(values - factor * exact, dtype=np.float64).sum())
    return factor if abs(factor) > _SAME_FACTOR and left <= _SAME_FACTOR**2 * factor**2 * square else None


@dataclass(frozen=True)
class Epsilons:
    """What came of the epsilons.

    Args:
        compared: number of norms for which the file has a scalar to compare.
        faults: a sentence for each that is another.
    """

    compared: int
    faults: tuple[str, ...]


def epsilon_findings(module: nn.Module, scalars: Sequence[Epsilon]) -> Epsilons:
    """Compares the epsilons of a component's norms with the scalars of the file's operations.

    Where the file's names do not tell whose an epsilon is, it must be that of some norm of the component.

    Args:
        module: the component.
        scalars: of its files.
    """
    norms = {
        name.removeprefix("component."): epsilon
        for name, m in module.named_modules()
        if (epsilon := _epsilon_of(m)) is not None
    }
    by_module: dict[str, list[Epsilon]] = {}
    for scalar in scalars:
        for path in scalar.modules:
            by_module.setdefault(path, []).append(scalar)
    faults: list[str] = []
    compared = 0
    for path, epsilon in norms.items():
        own = by_module.get(path, [])
        compared += bool(own)
        faults += [f"{path}: {fault}" for group in _groups(own) for fault in epsilon_faults([epsilon], group)]
    for scalar in scalars:
        if scalar.named and not scalar.modules & set(norms):
            faults += [f"{_label(scalar)}: {fault}" for fault in _of_none(scalar, set(norms.values()))]
    return Epsilons(compared, tuple(dict.fromkeys(faults)))


def _groups(scalars: Sequence[Epsilon]) -> Iterator[dict[str, NDArray[Any]]]:
    """Yields groups of a norm's scalars, in each of which its epsilon must be.

    That is every scalar that the file calls an epsilon, what a composite is decomposed into, and where none is called
    so, all scalars of the norm's operations.
    """
    named = [scalar for scalar in scalars if scalar.named]
    yield from ({_label(scalar): np.array(scalar.value)} for scalar in named)
    yield {scalar.name: np.array(scalar.value) for scalar in scalars if scalar.inside}
    if not named:
        yield {scalar.name: np.array(scalar.value) for scalar in scalars if not scalar.inside}


def _of_none(scalar: Epsilon, known: set[float]) -> list[str]:
    """Returns a sentence if an epsilon is that of no norm."""
    if any(not epsilon_faults([epsilon], {_label(scalar): np.array(scalar.value)}) for epsilon in known):
        return []
    listed = ", ".join(f"{epsilon:g}" for epsilon in sorted(known))
    return [f"{scalar.value:.3g}; the norms of PyTorch have {listed or 'none'}"]


def _label(scalar: Epsilon) -> str:
    return scalar.name if not scalar.named or "epsilon" in scalar.name else f"epsilon {scalar.name}"


def _epsilon_of(module: nn.Module) -> float | None:
    """Returns the epsilon of a norm, under PyTorch's or Transformers' name; None for what is no norm."""
    stated = (getattr(module, name, None) for name in ("eps", "variance_epsilon"))
    found = next((value for value in stated if isinstance(value, float)), None)
    return found if "Norm" in type(module).__name__ else None
