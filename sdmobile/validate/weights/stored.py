"""A constant of an exported file, the same for every format: where it is used, how it lies there, what it stores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.validate.bisect.graph import ModuleNames

NATURAL: tuple[int, ...] = ()
"""The axes as PyTorch has them."""


class Use(str, Enum):
    """What a constant is to the operation that takes it."""

    WEIGHT = "weight"  # multiplied
    BIAS = "bias"  # added
    OTHER = "other"


@dataclass(frozen=True)
class Float:
    """Values as they are.

    Args:
        bits: 16 or 32.
    """

    bits: int


@dataclass(frozen=True)
class Palette:
    """An index per element into a table.

    Args:
        tables: number of tables; as many equal parts of the first axis have one each.
        bits: width of an index.
    """

    tables: int
    bits: int


@dataclass(frozen=True)
class Steps:
    """Integers with a step.

    Args:
        steps: size of a step, broadcastable to the array.
        bits: width of an integer.
        offset: whether an integer other than 0 may stand for 0.
    """

    steps: NDArray[Any]
    bits: int
    offset: bool


Coding = Float | Palette | Steps


@dataclass(frozen=True, eq=False)
class StoredArray:
    """One constant of a file.

    Args:
        name: in the file.
        modules: dotted paths of the modules that it belongs to, as names in the file tell; empty where they do not.
        uses: what it is to the operations that take it.
        orders: for arrays of PyTorch's axes in another order, how these lie in the file; `NATURAL` for the same order.
            A transposition applies to parameters of as many axes.
        shape: in the file.
        coding: how its values are stored.
        read: returns the values in float32, decoded.
    """

    name: str
    modules: frozenset[str]
    uses: frozenset[Use]
    orders: frozenset[tuple[int, ...]]
    shape: tuple[int, ...]
    coding: Coding
    read: Callable[[], NDArray[Any]] = field(repr=False)

    @property
    def size(self) -> int:
        """Number of elements."""
        count = 1
        for length in self.shape:
            count *= length
        return count

    def may_be(self, parameter: str) -> bool:
        """Whether its uses allow it to be a parameter of this name: a sum takes no weight, a product no bias."""
        if not self.uses or Use.OTHER in self.uses:
            return True
        wanted = {"bias": Use.BIAS, "weight": Use.WEIGHT}.get(parameter.rpartition(".")[2])
        return wanted is None or wanted in self.uses


@dataclass(frozen=True)
class Epsilon:
    """A scalar that may be the epsilon of a norm.

    Args:
        name: in the file.
        modules: as in `StoredArray`.
        value: the number.
        named: whether the file calls it an epsilon.
        inside: whether it lies in the decomposition of a composite, which has an epsilon of its own.
    """

    name: str
    modules: frozenset[str]
    value: float
    named: bool
    inside: bool = False


@dataclass(frozen=True)
class FileConstants:
    """What one file stores.

    Args:
        arrays: floating-point constants of more than one element.
        scalars: constants of one element, and attributes that are epsilons.
    """

    arrays: tuple[StoredArray, ...]
    scalars: tuple[Epsilon, ...]


def belongs_to(own: str | None, taking: Sequence[str | None], names: ModuleNames) -> frozenset[str]:
    """Returns the modules that a constant belongs to.

    Where the name of every operation that takes it tells a module with parameters, it is theirs: a constant that
    another module takes is wrong there. Converters rename some operations, so else its own name counts too, and modules
    with parameters before those around them.

    Args:
        own: module in its own name.
        taking: modules in the names of the operations that take it.
        names: of the component's modules.
    """
    if taking and all(module is not None and names.has_parameters(module) for module in taking):
        return frozenset(module for module in taking if module is not None)
    known = {module for module in (own, *taking) if module is not None}
    return frozenset({module for module in known if names.has_parameters(module)} or known)
