"""Parts of a program that Core ML must compute in float32 because their values do not fit float16.

The program is run in float32 on recorded inputs. An operator is on an island if its result comes within a factor of 4
of the largest float16 number, 65504, or if it takes such a result: cast back to float16 in between, that would be
infinite again. The casts at the shores are the converter's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdmobile.basics.float16 import MAX_FINITE

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram


_TRIGONOMETRIC = ("sin", "cos")
# timestep → unsqueeze → multiply by the frequencies → (scale) → sin, cos
_DEPTH = 4


def runs_in_float16(op: Any) -> bool:
    """Returns whether a MIL operator may be cast to float16: all but those of the timestep's sinusoids.

    sin(t·f) needs t·f to a small fraction of 2π, but between 512 and 1024 neighbouring float16 numbers lie 0.5 apart,
    so a timestep of 999 would get a phase error of up to 0.25. The few operators work on [B, 320] values at most.
    """
    return not _feeds_trigonometry(op, _DEPTH)


def _feeds_trigonometry(op: Any, depth: int) -> bool:
    """Returns whether the operator is a sine or cosine, or its value reaches one within `depth` operators."""
    if op.op_type in _TRIGONOMETRIC:
        return True
    if depth == 0:
        return False
    return any(_feeds_trigonometry(child, depth - 1) for output in op.outputs for child in output.child_ops)


LIMIT = MAX_FINITE / 4
# What coremltools calls an operation that it made itself: its type and a number.
_GENERIC = re.compile(r"[a-z_]+_\d+(?:_cast_fp16)?")
_PARAMETER = re.compile(r"p_(.+)_(?:weight|bias)\w*")


@dataclass(frozen=True)
class Islands:
    """Operators that stay in float32.

    Args:
        nodes: names of the program's nodes.
        modules: paths of the modules that they come from.
        largest: the largest magnitude among their results.
    """

    nodes: frozenset[str] = frozenset()
    modules: tuple[str, ...] = ()
    largest: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Returns the facts that the manifest keeps."""
        return {"operators": len(self.nodes), "modules": list(self.modules), "largest": self.largest, "limit": LIMIT}

    def selector(self) -> Callable[[Any], bool]:
        """Returns the function that tells coremltools which MIL operations it may cast to float16."""
        owners = {_module_identifier(name) for name in self.nodes}
        return lambda op: runs_in_float16(op) and not self._holds(op, owners)

    def _holds(self, op: Any, owners: set[str]) -> bool:
        name = op.name.removesuffix("_cast_fp16")
        if name in self.nodes:
            return True
        if not self.nodes or not _GENERIC.fullmatch(name):
            return False
        parameters = (_PARAMETER.fullmatch(var.name) for var in _input_variables(op))
        if any(match and match[1] in owners for match in parameters):
            return True
        # One of several operations that a node became: the last of them has the node's name.
        return any(self._holds(child, owners) for output in op.outputs for child in output.child_ops)


def find_islands(program: ExportedProgram, inputs: Iterable[tuple[Tensor, ...]]) -> Islands:
    """Runs a program on recorded inputs and returns what must stay in float32.

    Args:
        program: as it will be converted, nodes named by module.
        inputs: of several recorded calls; none gives no islands.
    """
    from sdmobile.reference.magnitudes import magnitudes
    from sdmobile.rewrites.rule import source_module

    peaks: dict[str, float] = {}
    for tensors in inputs:
        for magnitude in magnitudes(program, tensors):
            peaks[magnitude.node] = max(magnitude.value, peaks.get(magnitude.node, 0.0))
    high = {name for name, value in peaks.items() if value > LIMIT}
    nodes = [
        node
        for node in program.graph.nodes
        if node.op == "call_function" and (node.name in high or any(one.name in high for one in node.all_input_nodes))
    ]
    modules = dict.fromkeys(source_module(node) or "" for node in nodes)
    largest = max((peaks[name] for name in high), default=0.0)
    return Islands(frozenset(node.name for node in nodes), tuple(modules), largest)


def _module_identifier(node_name: str) -> str:
    """Returns the part of a node's name that is its module: all but the operator's name."""
    return re.sub(r"_(?:linear|conv2d|addmm|mm|embedding)(?:_\d+)?$", "", node_name)


def _input_variables(op: Any) -> list[Any]:
    variables = []
    for value in op.inputs.values():
        items = value if isinstance(value, (list, tuple)) else [value]
        variables += [item for item in items if hasattr(item, "name")]
    return variables
