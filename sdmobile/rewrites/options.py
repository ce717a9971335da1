"""What a user may change about the rules that a device profile selects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

FLOAT16_SCALES = "float16_scales"
"""A step before the rules, on weights instead of the graph, that may be left out like a rule; see `docs/float16.md`."""


@dataclass(frozen=True)
class RewriteOptions:
    """A user's choices.

    Args:
        plain_ops: use the forms for runtimes that know no composite operators.
        without: names of rules that shall not run, or `FLOAT16_SCALES`.
        approximate: names of rules that change the function and shall run all the same.
        check: compare the graphs before and after every rule on recorded inputs.
    """

    plain_ops: bool = False
    without: tuple[str, ...] = ()
    approximate: tuple[str, ...] = ()
    check: bool = False

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RewriteOptions:
        """Returns the options that `to_json` wrote."""
        return cls(
            bool(data["plain_ops"]), tuple(data["without"]), tuple(data["approximate"]), bool(data.get("check", False))
        )
