"""What tools leave in the names and values of stored tensors, and the plain form that everything else reads.

torch.compile   `_orig_mod.` anywhere                       -> removed
parallel runs   `module.` before every name                 -> removed
scaled fp8      `X.weight` with `X.scale_weight`            -> W = weight · scale
adapters (PEFT) `X.base_layer.weight` with `X.lora_A.…`     -> refused: their scale is not in the file
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from sdmobile.errors import CheckpointError, UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

    from sdmobile.checkpoints.headers import TensorInfo

_COMPILED = "_orig_mod."
_PARALLEL = "module."
_SCALES = (".scale_weight", ".weight_scale")
# Marks of scaled fp8 files, and scales of activations, which only a processor with fp8 arithmetic would use.
_FP8_MARKS = ("scaled_fp8", ".scale_input", ".input_scale", ".comfy_quant")
_ADAPTERS = (".base_layer.", ".lora_A.", ".lora_B.", ".lora_embedding_A", ".hada_w1_a", ".lokr_w1", ".boft_R")


def plain_names(names: Collection[str]) -> dict[str, str]:
    """Returns the plain name of each stored name, without what compilation and parallel runs put before it."""
    compiled = {name: name.replace(_COMPILED, "") for name in names}
    if compiled and all(plain.startswith(_PARALLEL) for plain in compiled.values()):
        return {name: plain.removeprefix(_PARALLEL) for name, plain in compiled.items()}
    return compiled


def name_notes(names: Collection[str]) -> list[str]:
    """Returns what was taken off stored names, as sentences; empty where they are plain."""
    notes = []
    if any(_COMPILED in name for name in names):
        notes.append(f"`{_COMPILED}`, which torch.compile puts into names, is taken off")
    if names and all(name.startswith(_PARALLEL) for name in names):
        notes.append(f"`{_PARALLEL}`, which parallel training puts before names, is taken off")
    return notes


def refuse_adapters(names: Iterable[str], path: Path) -> None:
    """Raises UnsupportedError where a checkpoint holds adapters that were not fused into its weights."""
    for name in names:
        if any(mark in name for mark in _ADAPTERS):
            raise UnsupportedError(
                "adapters (LoRA and others) must be fused into the weights: their scale is not in the file",
                f"{path}: {name}",
                "Fuse and save again: `pipe.fuse_lora(); pipe.unload_lora_weights(); pipe.save_pretrained(…)`.",
            )


def with_scales(tensors: Mapping[str, TensorInfo]) -> tuple[dict[str, TensorInfo], list[str]]:
    """Returns the tensors without their fp8 scales, each scale kept with its weight, and notes.

    Raises:
        CheckpointError: a scale has neither one value nor one per row of its weight, or there is no such weight.
    """
    scales = {name: _weight_of(name) for name in tensors if name.endswith(_SCALES)}
    marks = [name for name in tensors if name.endswith(_FP8_MARKS)]
    plain = {name: info for name, info in tensors.items() if name not in scales and name not in marks}
    for name, weight in scales.items():
        if weight not in plain:
            raise CheckpointError("the scale of a weight must come with the weight", f"{name} without {weight}")
        rows, scale = plain[weight].shape[:1], tensors[name]
        if scale.elements != 1 and (scale.shape[:1] != rows or scale.elements != rows[0]):
            raise CheckpointError(
                "the scale of a weight must be one number, or one per row", f"{name} is {scale.shape} for {rows}"
            )
        plain[weight] = replace(plain[weight], scale=scale)
    notes = [f"{len(scales)} weights are stored in fp8 with a scale each; they are multiplied out"] if scales else []
    if any(not name.endswith("scaled_fp8") for name in marks):
        notes.append("scales of activations, for fp8 arithmetic, are not used")
    return plain, notes


def _weight_of(scale: str) -> str:
    return scale.rpartition(".")[0] + ".weight"
