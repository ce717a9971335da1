"""Marks the borders of a composite in a graph that is being traced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from torch import Tensor

if TYPE_CHECKING:
    from torch.fx import Node

_MARK = "litert_torch.mark_tensor"


def load_marks() -> None:
    """Imports the marks' library, which draws random tensors when it is imported."""
    import litert_torch.hlfb  # noqa: F401


def renew_marks(nodes: Sequence[Node]) -> None:
    """Gives each composite among copied nodes an identity of its own: equal ones would be one composite."""
    identities: dict[Any, str] = {}
    for node in nodes:
        if str(node.target).startswith(_MARK):
            known = node.args[3] if len(node.args) > 3 else node.kwargs["id"]
            new = identities.setdefault(known, uuid4().hex)
            if len(node.args) > 3:
                node.update_arg(3, new)
            else:
                node.update_kwarg("id", new)


class Composite:
    """The borders of one composite: `enter` its operands, compute the decomposition with them, `leave` with its value.

    The marks are operators that do nothing and carry an identity, which rules that use them `renew` for every match.

    Args:
        name: what a runtime knows the operation by, as `odml.group_norm`.
        attributes: numbers, texts and lists of numbers; a list named `axes` is stored as `_TENSOR_V1_axes`.
    """

    def __init__(self, name: str, attributes: Mapping[str, Any]) -> None:
        from litert_torch.hlfb import StableHLOCompositeBuilder

        self._builder = StableHLOCompositeBuilder(name, dict(attributes))

    def enter(self, *operands: Tensor) -> tuple[Tensor, ...]:
        """Returns the operands, marked, in the order in which the composite takes them."""
        marked: Any = self._builder.mark_inputs(*operands)
        return marked if isinstance(marked, tuple) else (marked,)

    def leave(self, value: Tensor) -> Tensor:
        """Returns the composite's value, marked."""
        marked: Any = self._builder.mark_outputs(value)
        return marked
