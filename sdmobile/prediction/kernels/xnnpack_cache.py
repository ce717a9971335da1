"""Which accesses to a model's tensors reach the main memory, by a least-recently-used cache of whole tensors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence


class Cache:
    """A cache of whole tensors.

    Args:
        capacity: bytes of the last-level cache.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._held: OrderedDict[str, int] = OrderedDict()
        self._used = 0

    def touch(self, name: str, size: int) -> bool:
        """Reads or writes a tensor; returns whether it was there."""
        known = name in self._held
        if known:
            self._held.move_to_end(name)
        else:
            self._held[name] = size
            self._used += size
        while self._used > self._capacity:
            self._used -= self._held.popitem(last=False)[1]
        return known


def missed(accesses: Sequence[Mapping[str, int]], capacity: int) -> list[frozenset[str]]:
    """Returns which tensors each kernel moves from or to the main memory.

    Two inferences go through the cache and the second is counted, so that weights that fit stay.

    Args:
        accesses: per kernel, names and bytes of the tensors that it reads and writes.
        capacity: bytes of the last-level cache.
    """
    cache = Cache(capacity)
    found: list[frozenset[str]] = []
    for _ in range(2):
        found = [frozenset(name for name, size in each.items() if not cache.touch(name, size)) for each in accesses]
    return found
