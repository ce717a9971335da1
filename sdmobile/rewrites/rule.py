"""What a rewrite rule is, what it matches, and the record of what it did."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

from sdmobile.rewrites.operators import arguments

if TYPE_CHECKING:
    from torch import Tensor
    from torch._ops import OpOverload
    from torch.fx import Graph, Node


class Exactness(str, Enum):
    """What a rule claims of the graph after it: the same numbers, the same equation, or another function."""

    EXACT = "exact"
    UP_TO_ROUNDING = "exact-up-to-rounding"
    CHANGES_FUNCTION = "changes-function"


class Outcome(str, Enum):
    """What became of a match; unmatched is a rule that was selected for a graph without anything that it is about."""

    APPLIED = "applied"
    REFUSED = "refused"
    UNMATCHED = "unmatched"


@dataclass(frozen=True)
class Match:
    """Nodes that a rule is about.

    Args:
        root: the node whose value the replacement computes.
        tensors: the replacement's positional arguments; None for an operand that is absent.
        options: its keyword arguments: constants found in the graph.
        covers: the nodes that become superfluous, root included.
    """

    root: Node
    tensors: tuple[Node | None, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    covers: tuple[Node, ...] = ()

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """Returns the shape of an operand."""
        node = self.tensors[index]
        assert node is not None
        return tuple(node.meta["val"].shape)


class Rule(ABC):
    """One rewrite: the nodes it is about, why it may not be used on some of them, and the code that replaces them.

    A subclass documents its equation, and the graph before and after it as `Captured:` and `Rewritten:`: operators by
    their ATen names, shapes at the right. `replacement` is plain PyTorch over the operands of the match, so it reads
    like the operator that it replaces and is checked against it in PyTorch, before any conversion.

    Class variables:
        name: identifies the rule in profiles, records and on the command line.
        title: one line for people.
        source: paper section, specification, file or measurement that the rule rests on.
        exactness: what the rule claims.
        bound_db: least PSNR in float32 between a program before and after the rule, demanded in check mode.
        unique: trace the replacement afresh for every match, as its options are too large to compare.
        composite: it writes composites: `renew` gives each an identity, and no two share a constant.
        folds: evaluate what the rule computes from weights alone, and store the result as new constants.
        selective: the rule chooses among its matches, so that a refusal is no loss that a user should hear of.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    exactness: ClassVar[Exactness]
    bound_db: ClassVar[float]
    unique: ClassVar[bool] = False
    composite: ClassVar[bool] = False
    folds: ClassVar[bool] = False
    selective: ClassVar[bool] = False

    @abstractmethod
    def matches(self, graph: Graph) -> Iterable[Match]:
        """Returns what the rule is about, in graph order; matches do not overlap."""

    def check(self, match: Match) -> str | None:
        """Returns why the rule cannot be used on a match, or None if it can."""
        return None

    def prepare(self) -> None:  # noqa: B027 (most rules import nothing)
        """Imports what `replacement` needs; called outside tracing, which would record what an import computes."""

    def renew(self, added: Sequence[Node]) -> None:  # noqa: B027 (see `composite`)
        """Gives the nodes of one match what no two matches may share; they may be copies of another match's."""

    @abstractmethod
    def replacement(self, *tensors: Any, **options: Any) -> Tensor:
        """Returns the value of the match's root, computed the rule's way."""

    def details(self, match: Match) -> dict[str, Any]:
        """Returns what a report should say about this place: sizes, the form taken; also asked of a selective rule's
        refusals."""
        return {}


class OperatorRule(Rule):
    """A rule about every node of one ATen operator.

    The operator's Tensor arguments become the match's tensors, all others its options, so `replacement` has the
    operator's own signature.
    """

    operator: ClassVar[OpOverload]

    def matches(self, graph: Graph) -> Iterable[Match]:
        return [operator_match(node) for node in graph.find_nodes(op="call_function", target=self.operator)]


def operator_match(node: Node) -> Match:
    """Returns the match of a single operator: its Tensor arguments and, by name, its other ones."""
    values = arguments(node)
    tensor_names = [a.name for a in node.target._schema.arguments if "Tensor" in str(a.type)]  # type: ignore[union-attr]
    options = {name: value for name, value in values.items() if name not in tensor_names}
    return Match(node, tuple(values[name] for name in tensor_names), options, (node,))


@dataclass(frozen=True)
class RewriteRecord:
    """What one rule did to one match.

    Args:
        rule: the rule's name.
        exactness: what the rule claims.
        outcome: what became of it.
        node: the node's name in the graph that the rule saw.
        module: the path of the module that the node came from.
        reason: why it was refused.
        removed: nodes that the match covered.
        added: nodes that came in their place.
        details: what the rule says about this place.
    """

    rule: str
    exactness: Exactness
    outcome: Outcome
    node: str | None = None
    module: str | None = None
    reason: str | None = None
    removed: int = 0
    added: int = 0
    details: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object."""
        return {**asdict(self), "exactness": self.exactness.value, "outcome": self.outcome.value}


def source_module(node: Node) -> str | None:
    """Returns the path of the module whose forward called `node`, without the wrapper's own prefix."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if path]
    return paths[-1].removeprefix("component.") if paths else None
