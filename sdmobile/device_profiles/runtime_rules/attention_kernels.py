"""Which kernel Google's GPU engine runs for an attention that reaches it as one node.

Rules of google-ai-edge/ml-drift@013b44b, `ml_drift/common/gpu_model_builder.cc` and
`kernels/special/conv_softmax_conv.cc`. It is a prediction: nothing here asks a GPU.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from sdmobile.device_profiles.runtime_rules.attention_forms import AttentionShape

Kernel = Literal["conv_softmax_conv", "softmax_reduce", "softmax", "as_written"]
# Forms that reach a runtime as one node. The engine looks for no attention in products and a softmax.
WHOLE_FORMS = ("sdpa", "composite")
_NEVER = 1 << 30  # more queries than any attention has


class KernelRules(BaseModel):
    """The numbers of the engine's selection.

    Args:
        flash: whether the GPU and the precision have the one fused kernel at all (float16 on Adreno and Apple GPUs).
        flash_min_query: fewest queries for it.
        flash_max_slices: most slices of four channels per head, ceil(D/4), equal for key and value.
        flash_key_multiple: the number of keys is a multiple of this.
        reduce_over: with more queries than this, the softmax's division is part of the value product.
        head_tiles: (queries · keys, heads per tile), largest first: how many heads are computed at a time.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    flash: bool = True
    flash_min_query: int = 1024
    flash_max_slices: int = 10
    flash_key_multiple: int = 4
    reduce_over: int = 16
    head_tiles: tuple[tuple[int, int], ...] = (
        (4096 * 4096, 1),
        (4096 * 2048, 2),
        (2048 * 2048, 4),
        (2048 * 1024, 8),
    )

    def without(self, *, flash: bool = False, fused_softmax: bool = False) -> KernelRules:
        """Returns the rules of the same engine without the one fused kernel, or without the division in the product."""
        changed: dict[str, Any] = {"flash": False} if flash else {}
        return self.model_copy(update=changed | ({"reduce_over": _NEVER} if fused_softmax else {}))


class RuntimeKernel(BaseModel):
    """The kernel that an engine is predicted to choose.

    Args:
        name: "conv_softmax_conv" (flash: no score tensor), "softmax_reduce" (partially fused: scores are written once,
            probabilities never), "softmax" (both are written), or "as_written": one kernel for every node of the file.
        heads_per_tile: heads computed at a time by the separate kernels; None for all, or for flash.
        why: why not the fused kernel; empty if it is chosen.
    """

    model_config = ConfigDict(frozen=True)

    name: Kernel
    heads_per_tile: int | None = None
    why: str = ""


def runtime_kernel(shape: AttentionShape, rules: KernelRules) -> RuntimeKernel:
    """Returns the kernel that the engine chooses for an attention of these sizes."""
    why = _why_not_flash(shape, rules)
    if why is None:
        return RuntimeKernel(name="conv_softmax_conv")
    area = shape.queries * shape.keys
    tile = next((heads for least, heads in rules.head_tiles if area >= least), None)
    tile = None if tile is None or tile >= shape.heads else tile
    name: Kernel = "softmax_reduce" if shape.queries > rules.reduce_over else "softmax"
    return RuntimeKernel(name=name, heads_per_tile=tile, why=why)


def predicted_kernel(form: str, shape: AttentionShape, rules: KernelRules) -> RuntimeKernel:
    """Returns the kernel that the engine runs for an attention in the form in which a file holds it."""
    if form in WHOLE_FORMS:
        return runtime_kernel(shape, rules)
    return RuntimeKernel(name="as_written", why=f"the form {form} is several nodes, which the engine does not fuse")


def _why_not_flash(shape: AttentionShape, rules: KernelRules) -> str | None:
    """Returns the first condition of the fused kernel that does not hold."""
    slices, value_slices = math.ceil(shape.head_dim / 4), math.ceil(shape.value_dim / 4)
    conditions = (
        (rules.flash, "the GPU or the precision has no fused kernel"),
        (not shape.masked, "it is masked"),
        (shape.queries >= rules.flash_min_query, f"{shape.queries} queries are fewer than {rules.flash_min_query}"),
        (slices == value_slices, f"key and value have {slices} and {value_slices} slices"),
        (slices <= rules.flash_max_slices, f"{slices} slices per head are more than {rules.flash_max_slices}"),
        (
            shape.keys % rules.flash_key_multiple == 0,
            f"{shape.keys} keys are no multiple of {rules.flash_key_multiple}",
        ),
    )
    return next((reason for holds, reason in conditions if not holds), None)
