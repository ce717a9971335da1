"""Reading configurations off the names and shapes of tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any


def count_blocks(names: Iterable[str], prefix: str) -> int:
    """Returns one more than the largest index that follows a prefix such as "down_blocks." (0 if none)."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return max((int(match[1]) + 1 for name in names if (match := pattern.match(name))), default=0)


def channels(shapes: Mapping[str, tuple[int, ...]], first: str, last: str) -> dict[str, Any]:
    """Returns `in_channels` and `out_channels` by the weights of the first and the last convolution."""
    facts: dict[str, Any] = {}
    if (shape := shapes.get(first)) and len(shape) == 4:
        facts["in_channels"] = shape[1]
    if (shape := shapes.get(last)) and len(shape) == 4:
        facts["out_channels"] = shape[0]
    return facts
