"""What a choice of form depends on: the sizes of one attention."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class AttentionShape:
    """The sizes of one attention.

    Args:
        batch: B; all leading axes but the last of them.
        heads: H; 1 for operands of rank 3.
        queries: M.
        keys: N.
        head_dim: D of query and key.
        value_dim: E of the value.
        masked: whether it has a mask, the causal one included.
    """

    batch: int
    heads: int
    queries: int
    keys: int
    head_dim: int
    value_dim: int
    masked: bool = False

    def score_bytes(self, element_bytes: int = 2) -> int:
        """Returns the size of the whole score tensor, B·H·M·N elements."""
        return self.row_bytes(element_bytes) * self.queries

    def row_bytes(self, element_bytes: int = 2) -> int:
        """Returns the size of the scores of one query position in all heads and images, B·H·N elements."""
        return self.batch * self.heads * self.keys * element_bytes

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object."""
        return asdict(self)
