"""The sizes of an attention, and which form it takes: the first row of a device's table that fits them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


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


Form = Literal["as_captured", "sdpa", "composite", "plain", "partial_softmax", "blocked", "split_einsum"]


class AttentionRow(BaseModel):
    """One row of a table: a form, and the attentions that it is for; a condition that is absent always holds.

    Args:
        form: the form's name.
        min_query, max_query: limits of the number of queries, inclusive.
        min_heads: least number of heads.
        max_head_dim: largest width of a head.
        key_multiple: the number of keys is a multiple of this.
        masked: whether there is a mask; None if it does not matter.
        over_budget: whether the score tensor is larger than the table's budget; None if it does not matter.
        source: what the row rests on.
        reliability: how far that can be trusted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    form: Form
    min_query: int | None = None
    max_query: int | None = None
    min_heads: int | None = None
    max_head_dim: int | None = None
    key_multiple: int | None = None
    masked: bool | None = None
    over_budget: bool | None = None
    source: str = Field(min_length=1)
    reliability: Literal["high", "medium", "low"]

    def misfit(self, shape: AttentionShape, over_budget: bool) -> str | None:
        """Returns the first condition that does not hold, with the value, or None if the row fits."""
        conditions = (
            (self.min_query is None or shape.queries >= self.min_query, f"{shape.queries} queries"),
            (self.max_query is None or shape.queries <= self.max_query, f"{shape.queries} queries"),
            (self.min_heads is None or shape.heads >= self.min_heads, f"{shape.heads} heads"),
            (self.max_head_dim is None or shape.head_dim <= self.max_head_dim, f"head width {shape.head_dim}"),
            (self.key_multiple is None or shape.keys % self.key_multiple == 0, f"{shape.keys} keys"),
            (self.masked is None or shape.masked == self.masked, "masked" if shape.masked else "no mask"),
            (
                self.over_budget is None or over_budget == self.over_budget,
                "over budget" if over_budget else "in budget",
            ),
        )
        return next((value for holds, value in conditions if not holds), None)


class Choice(BaseModel):
    """The form of one attention, and why."""

    model_config = ConfigDict(frozen=True)

    form: Form
    why: str


def choose(
    shape: AttentionShape, rows: Sequence[AttentionRow], budget_bytes: int | None = None, element_bytes: int = 2
) -> Choice:
    """Returns the form of the first row that fits; "as_captured" if none does.

    Args:
        shape: the attention's sizes.
        rows: a device's table, in order.
        budget_bytes: largest score tensor that the device takes; None if there is no such limit.
        element_bytes: size of a score on the device.
    """
    over = budget_bytes is not None and shape.score_bytes(element_bytes) > budget_bytes
    passed = []
    for row in rows:
        misfit = row.misfit(shape, over)
        if misfit is None:
            return Choice(form=row.form, why="; ".join([row.source, *passed]))
        passed.append(f"not {row.form}: {misfit}")
    return Choice(form="as_captured", why="; ".join(["no row of the device's table fits", *passed]))
