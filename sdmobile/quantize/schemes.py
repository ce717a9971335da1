"""The number formats that a weight can be stored in, by names that say what they are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, cast

from sdmobile.basics.words import nearest
from sdmobile.errors import UnsupportedError


@dataclass(frozen=True)
class Float16:
    """Half precision: what an exported bundle holds already."""

    @property
    def name(self) -> str:
        """The name that `parse_scheme` reads."""
        return "fp16"

    @property
    def bits(self) -> int:
        """Bits of an element."""
        return 16


@dataclass(frozen=True)
class Palette:
    """A table of 2**bits float16 values and an index per element.

    Args:
        bits: width of an index.
        group_size: output channels that share a table; 0 for one table per tensor.
    """

    bits: Literal[1, 2, 3, 4, 6, 8]
    group_size: int = 0

    @property
    def name(self) -> str:
        """The name that `parse_scheme` reads."""
        return f"palette{self.bits}" + (f"g{self.group_size}" if self.group_size else "")


@dataclass(frozen=True)
class Linear:
    """Integers with a scale.

    Args:
        bits: width of an integer.
        block_size: input channels that share a scale; 0 for one scale per output channel.
        symmetric: no offset; otherwise the smallest value of a channel or block becomes the lowest integer.
        dynamic: activations are quantised too, at run time (LiteRT on the CPU).
    """

    bits: Literal[4, 8]
    block_size: int = 0
    symmetric: bool = True
    dynamic: bool = False

    @property
    def name(self) -> str:
        """The name that `parse_scheme` reads."""
        kind = f"b{self.block_size}" if self.block_size else "d" if self.dynamic else "c"
        return f"{'' if self.symmetric else 'u'}int{self.bits}{kind}" + ("d" if self.dynamic and kind != "d" else "")


@dataclass(frozen=True)
class W8A8:
    """Eight-bit weights and activations where a layer keeps enough precision.

    Args:
        conv_psnr: least PSNR in dB of a convolution's output.
        attention_psnr: least PSNR in dB of an attention's output.
        output_psnr: least PSNR in dB of a component's output with all its chosen layers quantised. Other prompts came
            out up to seven decibels lower on `shapes-64`, and a compressed component needs 35 dB.
    """

    conv_psnr: float = 38.0
    attention_psnr: float = 26.0
    output_psnr: float = 45.0

    @property
    def name(self) -> str:
        """The name that `parse_scheme` reads."""
        if self == W8A8():
            return "w8a8"
        gates = f"w8a8-{self.conv_psnr:g}-{self.attention_psnr:g}"
        return gates if self.output_psnr == W8A8().output_psnr else f"{gates}-{self.output_psnr:g}"

    @property
    def bits(self) -> int:
        """Bits of an element."""
        return 8


Scheme = Float16 | Palette | Linear | W8A8

_EXAMPLES = (*(f"palette{bits}" for bits in (1, 2, 3, 4, 6, 8)), "palette4g16", "fp16", "w8a8")
_EXAMPLES += ("int8c", "int4c", "uint8c", "uint4c", "int8d", "int4b32", "int8b32")
_PALETTE = re.compile(r"palette(1|2|3|4|6|8)(?:g([1-9]\d*))?")
_LINEAR = re.compile(r"(u?)int(4|8)(?:c|b([1-9]\d*))?(d?)")
_W8A8 = re.compile(r"w8a8(?:-({0})-({0})(?:-({0}))?)?".format(r"\d+(?:\.\d+)?"))


def parse_scheme(name: str) -> Scheme:
    """Returns the scheme that a name says: fp16, palette4, palette4g16, int8c, uint8c, int4b32, int8d, w8a8.

    Raises:
        UnsupportedError: no scheme has this name.
    """
    if name == "fp16":
        return Float16()
    if match := _PALETTE.fullmatch(name):
        return Palette(cast("Any", int(match[1])), int(match[2] or 0))
    match = _LINEAR.fullmatch(name)
    if match and name[-1] in "cd0123456789" and name != f"{match[1]}int{match[2]}":
        return Linear(cast("Any", int(match[2])), int(match[3] or 0), not match[1], bool(match[4]))
    if match := _W8A8.fullmatch(name):
        return W8A8(*(float(gate) for gate in match.groups() if gate is not None))
    raise UnsupportedError(
        "a scheme is fp16, palette{1,2,3,4,6,8}, palette4g16 (16 channels per table), int8c, int4c, uint8c "
        "(per channel), int4b32 (32 inputs per scale), int8d (LiteRT, dynamic) or w8a8",
        repr(name),
        nearest(name, _EXAMPLES),
    )
