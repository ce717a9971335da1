"""All operations of the evaluator: importing a module of operations registers them."""

from __future__ import annotations

from sdmobile.runtimes.mlprogram.ops import (  # noqa: F401
    activation,
    attention,
    blocks,
    control,
    convolution,
    elementwise,
    indexing,
    lists,
    normalization,
    pooling,
    quantization,
    random,
    ranking,
    recurrent,
    reduction,
    resizing,
    sampling,
    scattering,
    shape,
    state,
)
from sdmobile.runtimes.mlprogram.ops.registry import Op, registered


def operations() -> dict[str, Op]:
    """Returns all operations by type."""
    return registered()
