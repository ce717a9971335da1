"""Which operators stay in float32."""

from __future__ import annotations

from typing import Any

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
