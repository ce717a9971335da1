"""Which rules run for which target, in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdmobile.rewrites.rule import Rule


def rules_for(target: str) -> tuple[Rule, ...]:
    """Returns the rules for a target in the order of application.

    Args:
        target: "ios", "android" or "onnx".
    """
    from sdmobile.rewrites.group_norm import GroupNormInstanceNorm, GroupNormNhwcAmax

    by_target: dict[str, tuple[Rule, ...]] = {
        # 1. Normalisation: independent of every other rule, and needed for acceptance and for float16.
        "ios": (GroupNormInstanceNorm(),),
        "android": (GroupNormNhwcAmax(),),
        # ONNX is the independent witness: it gets the graph as captured.
        "onnx": (),
    }
    return by_target[target]
