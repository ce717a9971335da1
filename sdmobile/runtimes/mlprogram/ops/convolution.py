"""Convolutions of one, two and three spatial dimensions."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from sdmobile.runtimes.mlprogram.ops import sums
from sdmobile.runtimes.mlprogram.ops.registry import Context, op

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def paddings(
    context: Context, pad_type: str, pad: list[int] | None, kernel: list[int], strides: list[int], sizes: list[int]
) -> list[int]:
    """Returns the elements to pad before and after each spatial dimension.

    With "same", m = ⌈n/s⌉ elements come out: (m − 1)·s + k − n are padded, the odd one after ("same") or before
    ("same_lower"). coremltools infers shapes by this rule and its tests compare values with it; the text of the
    operation has another one, which agrees for stride 1 and odd kernels.

    Args:
        context: of the operation, for errors.
        pad_type: "valid", "custom", "same" or "same_lower".
        pad: before and after each dimension, for "custom"; without effect beside the other types, as coremltools infers
            shapes and its tests of graph passes predict them, though the text of the operation forbids it.
        kernel: sizes k of the kernel with dilation.
        strides: s, one per dimension.
        sizes: n, of the input.

    Raises:
        UnsupportedOpError: an unknown type.
    """
    if pad_type == "custom":
        return pad or [0] * (2 * len(kernel))
    if pad_type == "valid":
        return [0] * (2 * len(kernel))
    if pad_type not in ("same", "same_lower"):
        raise context.unsupported(f"pad_type {pad_type}")
    totals = [max(0, (-(-n // s) - 1) * s + k - n) for n, k, s in zip(sizes, kernel, strides, strict=True)]
    pairs = [(total // 2, total - total // 2) for total in totals]
    return [n for pair in pairs for n in (pair if pad_type == "same" else reversed(pair))]


def split_padding(x: Tensor, pads: list[int], value: float = 0.0) -> tuple[Tensor, list[int]]:
    """Returns x and the symmetric paddings, x padded explicitly if a padding is not symmetric."""
    before, after = pads[0::2], pads[1::2]
    if before == after:
        return x, before
    torch_order = [n for pair in reversed(list(zip(before, after, strict=True))) for n in pair]
    return F.pad(x, torch_order, value=value), [0] * len(before)


@op()
def conv(
    x: Tensor,
    weight: Tensor,
    context: Context,
    bias: Tensor | None = None,
    strides: list[int] | None = None,
    pad_type: str = "valid",
    pad: list[int] | None = None,
    dilations: list[int] | None = None,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation of x [n, C_in, ...] with weight [C_out, C_in/groups, ...], plus bias [C_out]."""
    rank = x.dim() - 2
    if rank not in _CONV:
        raise context.unsupported(f"{rank} spatial dimensions")
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    kernel = [(size - 1) * dilation + 1 for size, dilation in zip(weight.shape[2:], dilations, strict=True)]
    x, padding = split_padding(x, paddings(context, pad_type, pad, kernel, strides, list(x.shape[2:])))
    if context.rounds_sums:

        def compute(part: Tensor, taps: Tensor) -> Tensor:
            return _CONV[rank](part, taps, None, strides, padding, dilations, groups)

        return _add_bias(sums.convolve(compute, x, weight, groups), bias)
    return _CONV[rank](x, weight, bias, strides, padding, dilations, groups)


def _add_bias(y: Tensor, bias: Tensor | None) -> Tensor:
    return y if bias is None else y + bias.reshape(-1, *[1] * (y.dim() - 2))


@op()
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    context: Context,
    bias: Tensor | None = None,
    pad: list[int] | None = None,
    output_shape: list[int] | None = None,
    pad_type: str = "valid",
    strides: list[int] | None = None,
    dilations: list[int] | None = None,
    groups: int = 1,
) -> Tensor:
    """Transposed convolution with weight [C_in, C_out/groups, ...], of which `pad` elements are cut off."""
    rank = x.dim() - 2
    if rank not in _CONV_TRANSPOSE:
        raise context.unsupported(f"{rank} spatial dimensions")
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    if context.rounds_sums:
        y = _rounded_transpose(x, weight, strides, dilations, groups)
        y = _add_bias(y, bias)
    else:
        y = _CONV_TRANSPOSE[rank](x, weight, bias, strides, 0, 0, groups, dilations)
    if pad_type == "same":
        wanted = output_shape[2:] if output_shape else [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
        totals = [have - want for have, want in zip(y.shape[2:], wanted, strict=True)]
        pads = [n for total in totals for n in (max(total, 0) // 2, total - max(total, 0) // 2)]
    else:
        pads = paddings(context, pad_type, pad, [1] * rank, strides, list(x.shape[2:]))
    y = F.pad(y, [-n for i in reversed(range(rank)) for n in (pads[2 * i], pads[2 * i + 1])])
    if output_shape is not None and list(y.shape) != output_shape:
        raise context.unsupported(f"output_shape {output_shape} instead of {list(y.shape)}")
    return y.contiguous()


def _rounded_transpose(x: Tensor, weight: Tensor, strides: list[int], dilations: list[int], groups: int) -> Tensor:
    """A transposed convolution whose sums over input channels are float16."""

    def compute(part: Tensor, taps: Tensor) -> Tensor:
        taps = taps.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
        return _CONV_TRANSPOSE[x.dim() - 2](part, taps, None, strides, 0, 0, groups, dilations)

    # As a convolution has it: [groups · C_out/groups, C_in/groups, ...].
    by_output = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    return sums.convolve(compute, x, by_output, groups)
