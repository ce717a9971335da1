"""What is known of Core ML and against the Neural Engine, as rules over an operation's type, shapes and options.

None could be checked without an Apple device; where an operation runs is Core ML's own decision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

MAX_RANK = 5
NEURAL_ENGINE_RANK = 4
MAX_DIMENSION = 16384
MAX_POOL_KERNEL = 13
MAX_POOL_STRIDE = 2
MAX_UPSAMPLE = 2
PALETTES_STAY = 17
"""The iOS version from which on palettes are decompressed as needed; before, when the model loads."""

HOLLANCE = "hollance/neural-engine docs/unsupported-layers.md (secondary; its author calls some of it guesses)"
HOLLANCE_LOG = "hollance/neural-engine#2 (messages of the Neural Engine's compiler)"
TYPED = "coremltools guide, Typed Execution: float32 programs run on CPU and GPU only"
RANK = "coremltools 9.0 converters/mil/frontend/torch/ops.py: Core ML takes tensors of rank 5 at most"
FOUR_DIMENSIONS = "Apple, Deploying Transformers on the Apple Neural Engine: four dimensions, channels first"
DIMENSION = "apple/coremltools#1003 and #283: 16384 is the largest dimension that is known to work"
PALETTES = "apple/ml-stable-diffusion README, weight compression: palettes are decompressed as needed from iOS 17"

_OFF_THE_ENGINE = {
    "gather": "Look up outside of the program, or in the component that runs on the CPU anyway",
    "gather_along_axis": "Use slices",
    "gather_nd": "Use slices",
    "lstm": "Unroll it",
    "gru": "Unroll it",
    "rnn": "Unroll it",
}


@dataclass(frozen=True)
class Objection:
    """A rule that an operation breaks."""

    severity: Literal["refused", "warning"]
    rule: str
    detail: str
    fix: str
    source: str


Objections = Iterator[Objection]
Options = Callable[[str], Any]
"""Returns the numbers of a parameter that is stored in the operation, None where it is not."""


class Value(Protocol):
    """A result of an operation; its text goes into the details."""

    @property
    def dtype(self) -> str:
        """Lower-case element type."""
        ...

    @property
    def shape(self) -> Sequence[int | None]:
        """Dimensions; None where the input decides."""
        ...


def objections(kind: str, name: str, outputs: Sequence[Value], options: Options) -> Objections:
    """Yields what speaks against an operation that is computed, whatever the iOS version.

    "refused" stands for what Core ML excludes; what may merely keep it off the Neural Engine is a warning.

    Args:
        kind: type of the operation, such as "conv".
        name: of the operation.
        outputs: its results.
        options: its parameters.
    """
    for output in outputs:
        yield from _shape(output)
    if kind != "cast" and outputs[0].dtype == "float32":
        yield Objection(
            "warning",
            "float32",
            f"{outputs[0]} is computed in float32, which the Neural Engine cannot",
            "Convert with float16 precision, or accept the GPU for this part",
            TYPED,
        )
    yield from _kind(kind, name, options)


def _shape(output: Value) -> Objections:
    sizes = [size for size in output.shape if size is not None]
    rank = len(output.shape)
    if rank > MAX_RANK:
        yield Objection("refused", "rank", f"{output} has rank {rank}", f"Use at most {MAX_RANK} dimensions", RANK)
    elif rank > NEURAL_ENGINE_RANK:
        yield Objection(
            "warning",
            "neural-engine-rank",
            f"{output} has rank {rank}",
            "Write it with four dimensions, as the rewrite rule for GroupNorm does",
            FOUR_DIMENSIONS,
        )
    if sizes and max(sizes) > MAX_DIMENSION:
        yield Objection(
            "warning",
            "dimension",
            f"{output} has a dimension above {MAX_DIMENSION}",
            "Split it, for example attention into blocks of queries",
            DIMENSION,
        )


def _kind(kind: str, name: str, options: Options) -> Objections:
    def off(detail: str, fix: str, source: str) -> Objection:
        return Objection("warning", "off-neural-engine", f"{name}: {detail}", fix, source)

    if kind in _OFF_THE_ENGINE:
        yield off(f"{kind} is reported off the Neural Engine", _OFF_THE_ENGINE[kind], HOLLANCE)
    elif kind == "conv" and _largest(options("dilations")) > 1:
        yield off("a dilated convolution is reported off the Neural Engine", "Use no dilation", HOLLANCE)
    elif kind.endswith("_pool"):
        kernel, stride = _largest(options("kernel_sizes")), _largest(options("strides"))
        if kernel > MAX_POOL_KERNEL or stride > MAX_POOL_STRIDE:
            detail = f"kernel {kernel:g}, stride {stride:g}; {MAX_POOL_KERNEL} and {MAX_POOL_STRIDE} at most"
            yield off(detail, "Pool in several steps", HOLLANCE_LOG)
    elif kind.startswith("upsample"):
        factor = max(_largest(options(f"scale_factor_{axis}")) for axis in ("height", "width"))
        if factor > MAX_UPSAMPLE:
            yield off(f"upsampling by {factor:g}", "Upsample by two several times", HOLLANCE_LOG)


def _largest(numbers: Any) -> float:
    """Returns the largest of a parameter's numbers, 1 where it is not stored in the operation."""
    return 1.0 if numbers is None or not np.size(numbers) else float(np.max(numbers))
