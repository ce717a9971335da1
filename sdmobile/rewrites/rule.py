"""What a rewrite rule is, and the record of what it did."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import Graph, Node

EXACT = "exact"
UP_TO_ROUNDING = "exact-up-to-rounding"
CHANGES_FUNCTION = "changes-function"


class Rule(ABC):
    """One rewrite: the nodes it is about, why it may not be used on one of them, and the code that replaces it.

    A subclass documents its equation and its source. `replacement` takes the arguments of the matched node, so it reads
    like the operator that it replaces and is checked against it in PyTorch, before any conversion.
    """

    name: ClassVar[str]
    exactness: ClassVar[str]

    @abstractmethod
    def matches(self, graph: Graph) -> list[Node]:
        """Returns the nodes that the rule is about, in graph order."""

    @abstractmethod
    def check(self, node: Node) -> str | None:
        """Returns why the rule cannot be used on a matched node, or None if it can."""

    @property
    @abstractmethod
    def replacement(self) -> Callable[..., Tensor]:
        """The PyTorch function that takes the node's arguments and returns its value."""


@dataclass(frozen=True)
class RewriteRecord:
    """What one rule did to one node.

    Args:
        rule: the rule's name.
        exactness: what the rule claims.
        outcome: "applied", "refused" or "unmatched" (selected, but the graph has no such node).
        node: the node's name in the captured graph.
        module: the path of the module that the node came from.
        reason: why it was refused.
    """

    rule: str
    exactness: str
    outcome: str
    node: str | None = None
    module: str | None = None
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object."""
        return asdict(self)


def source_module(node: Node) -> str | None:
    """Returns the path of the module whose forward called `node`, without the wrapper's own prefix."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if path]
    return paths[-1].removeprefix("component.") if paths else None
