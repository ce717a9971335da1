"""Keeps the sum small: errors of layers that pass one by one add up when all of them are quantised together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sdmobile.basics.metrics import psnr

if TYPE_CHECKING:
    from sdmobile.quantize.activations.gate import Scales, Verdict
    from sdmobile.quantize.activations.ranges import Method
    from sdmobile.quantize.activations.simulate import Inputs, Simulation


def jointly(
    simulation: Simulation,
    calls: Sequence[Inputs],
    verdicts: Sequence[Verdict],
    scales: Mapping[Method, Scales],
    floor_db: float,
) -> tuple[Verdict, ...]:
    """Drops the layers with the lowest PSNR of their own until the output of all others together reaches a floor.

    Args:
        simulation: the uncompressed program.
        calls: the judged inputs, by name in the file.
        verdicts: of the layers one by one.
        scales: by method.
        floor_db: least PSNR in dB of the worst call.

    Returns:
        The verdicts, with `passed` false for what was dropped.
    """
    order = sorted((v for v in verdicts if v.passed), key=lambda v: v.psnr_db[v.method], reverse=True)
    exact = [simulation.outputs(call, (), {}) for call in calls]

    def worst(count: int) -> float:
        layers = [verdict.layer for verdict in order[:count]]
        merged = {name: scales[v.method][name] for v in order[:count] for name in v.layer.activations}
        found = (simulation.outputs(call, layers, merged) for call in calls)
        return min(psnr(one, other) for one, other in zip(exact, found, strict=True))

    kept = {id(verdict) for verdict in order[: most(len(order), lambda count: worst(count) >= floor_db)]}
    return tuple(replace(verdict, passed=id(verdict) in kept) for verdict in verdicts)


def most(limit: int, holds: Callable[[int], bool]) -> int:
    """Returns the largest count up to a limit for which a condition holds; more can only break it, 0 always holds."""
    if holds(limit):
        return limit
    low, high = 0, limit  # holds(low), not holds(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
