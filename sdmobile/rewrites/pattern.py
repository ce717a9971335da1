"""Patterns over graph nodes, written like the expressions that they match.

x, mean = Var("x"), Call(aten.mean.dim, Var("x"), Const("dims"), Const("keepdim"))
bindings = match(Call(aten.sub.Tensor, x, mean), node)       # {"x": <node>, "dims": [-1], "keepdim": True} or None
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from itertools import permutations
from typing import Any

import torch
from torch.fx import Node

from sdmobile.rewrites.operators import arguments

_aten = torch.ops.aten
_COMMUTATIVE = (_aten.add.Tensor, _aten.mul.Tensor)

Bindings = dict[str, Any]


class Pattern:
    """Something that a node, or an argument of a node, can be."""

    def __init__(self, name: str | None = None) -> None:
        self.name = name

    def accepts(self, value: Any, bound: Bindings) -> Bindings | None:
        """Returns the bindings extended by what this pattern binds, or None if the value is something else."""
        raise NotImplementedError

    def bind(self, value: Any, bound: Bindings) -> Bindings | None:
        """Returns the bindings with this pattern's name bound; None if it is bound to something else already."""
        if self.name is None:
            return bound
        if self.name in bound:
            return bound if _same(bound[self.name], value) else None
        return {**bound, self.name: value}


def _same(a: Any, b: Any) -> bool:
    return a is b if isinstance(a, Node) or isinstance(b, Node) else a == b


class Var(Pattern):
    """Any node; the same name is the same node everywhere in a pattern."""

    def accepts(self, value: Any, bound: Bindings) -> Bindings | None:
        return self.bind(value, bound) if isinstance(value, Node) else None


class Const(Pattern):
    """Anything that is not a node: a number, a list of axes, None."""

    def __init__(self, name: str | None = None, where: Callable[[Any], bool] = lambda _: True) -> None:
        super().__init__(name)
        self.where = where

    def accepts(self, value: Any, bound: Bindings) -> Bindings | None:
        return None if isinstance(value, Node) or not self.where(value) else self.bind(value, bound)


class Call(Pattern):
    """A node that calls an operator, or one of several.

    Args:
        operators: the operator overload, or a tuple of them.
        args: patterns of the leading arguments; a plain value stands for exactly this value. Arguments that are not
            listed may be anything.
        name: binds the node itself.
        named: patterns of further arguments by their name in the operator's schema.
    """

    def __init__(self, operators: Any, *args: Any, name: str | None = None, **named: Any) -> None:
        super().__init__(name)
        self.operators = operators if isinstance(operators, tuple) else (operators,)
        self.args = args
        self.named = named

    def accepts(self, value: Any, bound: Bindings) -> Bindings | None:
        if not isinstance(value, Node) or value.op != "call_function" or value.target not in self.operators:
            return None
        values = arguments(value)
        started = self.bind(value, bound)
        if started is None:
            return None
        for order in self._orders(value):
            extended = _all(zip(order, values.values(), strict=False), started)
            if extended is not None:
                return _all(((p, values[n]) for n, p in self.named.items()), extended)
        return None

    def _orders(self, value: Node) -> Iterable[tuple[Any, ...]]:
        if value.target in _COMMUTATIVE and len(self.args) == 2:
            return permutations(self.args)
        return (self.args,)


class Item(Pattern):
    """One result of a node that has several, such as a chunk of a tensor."""

    def __init__(self, source: Pattern, index: int, name: str | None = None) -> None:
        super().__init__(name)
        self.source = source
        self.index = index

    def accepts(self, value: Any, bound: Bindings) -> Bindings | None:
        if not isinstance(value, Node) or value.target is not operator.getitem or value.args[1] != self.index:
            return None
        started = self.bind(value, bound)
        return None if started is None else self.source.accepts(value.args[0], started)


class Either(Pattern):
    """The first of several patterns that matches."""

    def __init__(self, *choices: Pattern) -> None:
        super().__init__()
        self.choices = choices

    def accepts(self, value: Any, bound: Bindings) -> Bindings | None:
        results = (choice.accepts(value, bound) for choice in self.choices)
        return next((bindings for bindings in results if bindings is not None), None)


def _all(pairs: Iterable[tuple[Any, Any]], bound: Bindings) -> Bindings | None:
    """Returns the bindings of all (pattern, value) pairs together, or None."""
    current: Bindings | None = bound
    for pattern, value in pairs:
        if isinstance(pattern, Pattern):
            current = pattern.accepts(value, current)
        elif not _same(pattern, value):
            return None
        if current is None:
            return None
    return current


def match(pattern: Pattern, node: Node) -> Bindings | None:
    """Returns what the pattern's names are bound to if it matches at `node`, else None."""
    return pattern.accepts(node, {})


def between(root: Node, inputs: Iterable[Node]) -> tuple[Node, ...]:
    """Returns the nodes from `inputs` (excluded) to `root` (included) that nothing else uses: what a match covers."""
    stop = set(inputs)
    covered: list[Node] = []
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node in stop or node in covered or node.op != "call_function":
            continue
        if node is not root and any(user not in covered for user in node.users):
            continue
        covered.append(node)
        waiting += node.all_input_nodes
    return tuple(covered)
