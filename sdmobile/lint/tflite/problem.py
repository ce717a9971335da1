"""A broken rule, and the words that several rules share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from sdmobile.formats.tflite.model import Node

COMMIT = "google-ai-edge/LiteRT@f67457790c"
PARSERS = "LiteRT ml_drift_delegate/tflite/model_builder.cc"
PRECHECKS = "LiteRT ml_drift_delegate/tflite/operation_parser.cc"
SHARED = "LiteRT tflite/tools/versioning/gpu_compatibility.cc"
CLASSIC = "LiteRT tflite/delegates/gpu/common/model_builder.cc"
MEASURED = "own corpus on the accelerator of ai-edge-litert 2.3.0 (docs/lint.md)"


@dataclass(frozen=True)
class Problem:
    """A rule that a node breaks.

    Args:
        rule: short name.
        detail: the value that breaks it.
        fix: what to do.
        source: the file of the runtime that has the rule, or the measurement that showed it.
        severity: "miscomputed" where the runtime takes the node and computes something else.
    """

    rule: str
    detail: str
    fix: str
    source: str
    severity: Literal["refused", "miscomputed"] = "refused"


Problems = Iterator[Problem]
Check = Callable[[Node], Problems]


def operands(node: Node, source: str, runtime: int, constants: int | None = None, outputs: int = 1) -> Problems:
    """Yields a problem where a node has another number of computed or stored inputs or of outputs."""
    if constants is not None and len(node.constants) != constants:
        yield Problem(
            "stored-inputs",
            f"{node.op} takes {constants} stored inputs here and has {len(node.constants)}",
            "Compute constants before the export, or give the value as an input",
            source,
        )
    if len(node.runtime) != runtime:
        yield Problem(
            "computed-inputs",
            f"{node.op} takes {runtime} computed inputs here and has {len(node.runtime)}",
            "Compute constants before the export; store what need not be computed",
            source,
        )
    if len(node.outputs) != outputs:
        yield Problem(
            "outputs",
            f"{node.op} has {outputs} outputs here, not {len(node.outputs)}",
            "Export the model again",
            source,
        )


def constant_axes(node: Node, source: str) -> Problems:
    """Yields a problem where the second input is not a stored int32 tensor."""
    axes = node.input(1)
    if axes is None or not axes.constant:
        yield Problem("constant-axes", f"the axes of {node.op} are computed", "Give the axes as constants", source)
    elif axes.dtype != "INT32":
        yield Problem("constant-axes", f"the axes of {node.op} are {axes.dtype.lower()}", "Store them as int32", source)


def fused_activation(node: Node, source: str) -> Problems:
    """Yields a problem where the fused activation is none that the GPU kernels know."""
    if node.activation() in ("SIGN_BIT", "unknown"):
        yield Problem(
            "fused-activation",
            f"fused activation {node.activation()}",
            "Use RELU, RELU6, RELU_N1_TO_1, TANH or none",
            source,
        )
