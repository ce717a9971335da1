"""The documentation of every rule pictures the graph before and after it, and the pictures are true."""

from __future__ import annotations

import inspect
import re

import pytest
import torch
from torch import Tensor
from torch.fx import Graph
from torch.utils._pytree import tree_leaves

from sdmobile.rewrites.engine import rewrite
from sdmobile.rewrites.registry import RULES, rule_class
from tests.rewrites.attention.reference import captured
from tests.rewrites.examples import EXAMPLES, Pictured

CAPTURED, REWRITTEN = "Captured", "Rewritten"
_CALL = re.compile(r"(?<![\w'])([a-z_]\w*)\(")


def picture(rule: str, heading: str) -> str:
    """Returns the indented block below a heading of a rule's documentation."""
    text = inspect.getdoc(rule_class(rule)) or ""
    block = re.search(rf"^{heading}:\n((?: {{4}}.+\n?)+)", text, re.MULTILINE)
    assert block is not None, f"{rule} has no picture {heading}"
    return block.group(1)


def pictured_operators(rule: str, heading: str) -> set[str]:
    """Returns the operators in a picture; the name of another rule stands for what that rule writes."""
    called = set(_CALL.findall(picture(rule, heading)))
    nested = called & set(RULES)
    return (called - nested).union(*(pictured_operators(name, REWRITTEN) for name in nested))


def operators(graph: Graph, without: Graph) -> set[str]:
    """Returns the operators of the nodes of a graph that are not in another one, such as "add"."""
    others = {node.name for node in without.nodes}
    targets = [node.target for node in graph.nodes if node.op == "call_function" and node.name not in others]
    return {target.overloadpacket.__name__ for target in targets if isinstance(target, torch._ops.OpOverload)}


def test_every_rule_has_an_example() -> None:
    assert set(EXAMPLES) == set(RULES)


def pictured_shapes(rule: str, heading: str, sizes: dict[str, int]) -> list[tuple[int, ...]]:
    """Returns the shapes at the right of a picture; every line has one."""
    shapes = []
    for line in picture(rule, heading).splitlines():
        column = re.search(r" {2,}(?=\()", line.strip())
        assert column is not None, f"{rule} says no shape in {line}"
        for text in re.findall(r"\(([^()]+)\)", line.strip()[column.end() :]):
            expression = text.replace("·", "*").replace("/", "//").replace("²", "**2")
            shapes.append(tuple(eval(f"({expression},)".replace(",,", ","), {}, dict(sizes))))
    return shapes


def shapes_of(graph: Graph) -> set[tuple[int, ...]]:
    """Returns the shapes of all values of a graph."""
    values = [value for node in graph.nodes for value in tree_leaves(node.meta.get("val"))]
    return {tuple(value.shape) for value in values if isinstance(value, Tensor)}


@pytest.mark.parametrize("rule", RULES)
def test_the_pictures_are_true(rule: str) -> None:
    """They name exactly the operators that go and that come, and only shapes that values have."""
    example = EXAMPLES[rule]
    before = captured(Pictured(example), *(torch.zeros(size) for size in example.inputs))
    rewritten = rewrite(before, [rule_class(rule)(**example.options)])
    assert [record.outcome for record in rewritten.records] == ["applied"]
    for heading, graph, other in (
        (CAPTURED, before.graph, rewritten.program.graph),
        (REWRITTEN, rewritten.program.graph, before.graph),
    ):
        assert pictured_operators(rule, heading) == operators(graph, other)
        assert set(pictured_shapes(rule, heading, example.sizes)) <= shapes_of(graph)
