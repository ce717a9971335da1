"""The streams of the KL autoencoder: where its residual sum runs, and what lies inside its residual blocks.

    conv_in ─▶ s ─┬─▶ norm1 ─▶ SiLU ─▶ conv1 ─▶ t ─▶ norm2 ─▶ SiLU ─▶ conv2 ─┬─▶ s ─▶ … ─▶ conv_norm_out ─▶ SiLU
                  └────────────────────── as it is ──────────────────────────┘

Where a convolution changes the width or the resolution of s (`conv_shortcut`, samplers), s ends and the next begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from sdmobile.families.streams import Streams

if TYPE_CHECKING:
    from torch import nn

_HALVES = {"encoder": ("down_blocks", "mid_block"), "decoder": ("mid_block", "up_blocks")}

_WITHOUT_TIME = ("default", "group")  # Diffusers' encoder and decoder: where there is no timestep, nothing but norm2


def streams_of(module: nn.Module) -> Streams:
    """Returns the streams of one half of an autoencoder behind its file's interface.

    There are none where a block is of a kind that is not known: nothing is said of a network that is another.
    """
    for name, order in _HALVES.items():
        half: Any = getattr(module, name, None)
        if half is not None and _is_norm(getattr(half, "conv_norm_out", None)):
            try:
                return _Walk(name, half, order).streams
            except _UnknownError:
                return Streams()
    return Streams()


class _UnknownError(Exception):
    """A block of which it is not known whether it leaves a stream's scale alone."""


class _Walk:
    """Follows the residual sum through one half."""

    def __init__(self, name: str, half: Any, order: Sequence[str]) -> None:
        self._layers: dict[str, tuple[str | None, str]] = {}
        self._norms: dict[str, str] = {}
        self._stream: str | None = None
        self._begin(f"{name}.conv_in")
        for part in order:
            for path, block in _blocks(f"{name}.{part}", getattr(half, part)):
                self._block(path, block)
        self._read(f"{name}.conv_norm_out", half.conv_norm_out)
        self.streams = Streams(self._layers, self._norms)

    def _begin(self, path: str) -> None:
        self._layers[path] = (self._stream, path)
        self._stream = path

    def _write(self, path: str) -> None:
        assert self._stream is not None
        self._layers[path] = (None, self._stream)

    def _read(self, path: str, norm: Any) -> None:
        if not _is_norm(norm) or self._stream is None:
            raise _UnknownError
        self._norms[path] = self._stream

    def _block(self, path: str, block: Any) -> None:
        resnets, attentions = getattr(block, "resnets", ()), getattr(block, "attentions", None) or ()
        if not resnets and any(True for _ in block.parameters()):
            raise _UnknownError
        for index, (resnet, attention) in enumerate(zip_longest(resnets, attentions)):
            self._resnet(f"{path}.resnets.{index}", resnet)
            if attention is not None:
                self._attention(f"{path}.attentions.{index}", attention)
        for kind in ("downsamplers", "upsamplers"):
            for index, sampler in enumerate(getattr(block, kind, None) or ()):
                self._sampler(f"{path}.{kind}.{index}", sampler)

    def _resnet(self, path: str, resnet: Any) -> None:
        plain = type(resnet).__name__ == "ResnetBlock2D" and resnet.time_emb_proj is None
        if not plain or resnet.time_embedding_norm not in _WITHOUT_TIME or resnet.upsample or resnet.downsample:
            raise _UnknownError
        self._read(f"{path}.norm1", resnet.norm1)
        if not _is_norm(resnet.norm2):
            raise _UnknownError
        self._layers[f"{path}.conv1"] = (None, f"{path}.conv1")
        self._norms[f"{path}.norm2"] = f"{path}.conv1"
        if resnet.conv_shortcut is not None:
            self._begin(f"{path}.conv_shortcut")
        self._write(f"{path}.conv2")

    def _attention(self, path: str, attention: Any) -> None:
        plain = type(attention).__name__ == "Attention" and attention.residual_connection
        if not plain or attention.spatial_norm is not None:
            raise _UnknownError
        self._read(f"{path}.group_norm", attention.group_norm)
        self._write(f"{path}.to_out.0")

    def _sampler(self, path: str, sampler: Any) -> None:
        from torch import nn

        known = type(sampler).__name__ in ("Downsample2D", "Upsample2D") and sampler.norm is None
        if not known or not isinstance(sampler.conv, nn.Conv2d):
            raise _UnknownError
        self._begin(f"{path}.conv")


def _blocks(path: str, part: Any) -> Iterator[tuple[str, Any]]:
    """Yields the blocks of a list of blocks, or the one that it is."""
    from torch import nn

    if isinstance(part, nn.ModuleList):
        yield from ((f"{path}.{index}", block) for index, block in enumerate(part))
    elif part is not None:
        yield path, part


def _is_norm(module: Any) -> bool:
    from torch import nn

    return isinstance(module, nn.GroupNorm)
