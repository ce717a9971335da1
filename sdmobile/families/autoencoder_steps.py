"""The halves of the KL autoencoder as chains of steps, told from the names of their weights.

    encoder: conv_in ─▶ down_blocks ─▶ mid_block ─▶ conv_norm_out ─▶ SiLU ─▶ conv_out
    decoder: conv_in ─▶ mid_block ─▶ up_blocks ─▶ conv_norm_out ─▶ SiLU ─▶ conv_out

A block is residual blocks, each with an attention after it where there is one, and a sampler at its end.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal

Kind = Literal["enter", "residual", "attention", "down", "up", "leave"]

_BLOCKS = {"encoder": ("down_blocks", "mid_block"), "decoder": ("mid_block", "up_blocks")}
_LAYERS: dict[Kind, tuple[str, ...]] = {
    "enter": ("conv_in",),
    "residual": ("norm1", "conv1", "norm2", "conv2"),
    "attention": ("group_norm", "to_q", "to_k", "to_v", "to_out.0"),
    "down": ("conv",),
    "up": ("conv",),
    "leave": ("conv_norm_out", "conv_out"),
}
_SAMPLERS: dict[str, Kind] = {"downsamplers": "down", "upsamplers": "up"}


@dataclass(frozen=True)
class Step:
    """One step of a half.

    Args:
        kind: what it computes.
        path: of its module.
        shortcut: whether a residual block has a convolution beside its two.
    """

    kind: Kind
    path: str
    shortcut: bool = False

    @property
    def layers(self) -> tuple[str, ...]:
        """Paths of the layers that hold its weights."""
        names = (*_LAYERS[self.kind], *(("conv_shortcut",) if self.shortcut else ()))
        return tuple(f"{self.path}.{name}" for name in names)


def steps_of(half: str, names: Collection[str]) -> tuple[Step, ...]:
    """Returns the steps of a half in their order; none where its weights are not exactly those of such a half.

    Args:
        half: "encoder" or "decoder".
        names: of the autoencoder's weights, by Diffusers.
    """
    own = {name for name in names if name.startswith(f"{half}.")}
    blocks = (block for part in _BLOCKS[half] for block in _blocks(f"{half}.{part}", own))
    within = (step for block in blocks for step in _within(block, own))
    steps = (Step("enter", half), *within, Step("leave", half))
    expected = {f"{layer}.{kind}" for step in steps for layer in step.layers for kind in ("weight", "bias")}
    return steps if own == expected else ()


def _blocks(path: str, names: Collection[str]) -> Iterator[str]:
    return iter((path,)) if path.endswith("mid_block") else _members(path, names)


def _within(block: str, names: Collection[str]) -> Iterator[Step]:
    for index, path in enumerate(_members(f"{block}.resnets", names)):
        yield Step("residual", path, _holds(f"{path}.conv_shortcut", names))
        if _holds(attention := f"{block}.attentions.{index}", names):
            yield Step("attention", attention)
    for kind in _SAMPLERS:
        for path in _members(f"{block}.{kind}", names):
            yield Step(_SAMPLERS[kind], path)


def _members(path: str, names: Collection[str]) -> Iterator[str]:
    """Yields the modules of a list that hold weights, until one holds none."""
    for index in count():
        if not _holds(member := f"{path}.{index}", names):
            return
        yield member


def _holds(path: str, names: Collection[str]) -> bool:
    return any(name.startswith(f"{path}.") for name in names)
