"""Gives nodes names that say where they come from, because viewers such as Netron show them."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from sdmobile.rewrites.program import Draft
from sdmobile.rewrites.rule import source_module

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node


def name_by_module(program: ExportedProgram) -> ExportedProgram:
    """Returns the program with every operator named `<path of its module>_<operator>`, numbered where that is taken.

    Args:
        program: a rewritten program; it is left as it was.
    """
    draft = Draft(program)
    nodes = [node for node in draft.graph.nodes if node.op == "call_function"]
    taken = {node.name for node in draft.graph.nodes if node.op != "call_function"}
    counts: Counter[str] = Counter()
    draft.rename({node: _free(_wish(node), counts, taken) for node in nodes})
    return draft.finish()


def _wish(node: Node) -> str:
    """Returns module path and operator as an identifier."""
    operator = getattr(node.target, "__name__", str(node.target)).split(".")[0]
    words = [source_module(node) or "", operator]
    return re.sub(r"\W+", "_", "_".join(word for word in words if word)).strip("_")


def _free(wish: str, counts: Counter[str], taken: set[str]) -> str:
    """Returns the wish, with a number if another node has it."""
    while True:
        number = counts[wish]
        counts[wish] += 1
        name = wish if number == 0 else f"{wish}_{number}"
        if name not in taken:
            taken.add(name)
            return name
