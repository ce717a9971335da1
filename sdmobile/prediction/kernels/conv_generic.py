"""Work items and fetches of the kernel by which Google's GPU engines compute convolutions and products on Adreno.

A work item computes a block of x·y pixels and s slices of four output channels. For every tap and every slice of input
channels it fetches x·y vectors of the input and 4·s vectors of weights, and multiplies 16·x·y·s numbers:

    block      1×1×1   2×1×1   2×1×2   2×2×2
    macs       16      32      64      128
    fetches    5       6       10      12

The block grows with the number of output vectors per compute unit and wave (GetKernelParamsAdreno in
google-ai-edge/ml-drift `ml_drift/common/kernels/conv_generic.cc`; ConvGeneric::GuessBestParams in tensorflow@1538d62
`tensorflow/lite/delegates/gpu/common/tasks/conv_generic.cc`, which is the same).
"""

from __future__ import annotations

from dataclasses import dataclass

from sdmobile.device_profiles.runtime_rules.winograd import Gpu
from sdmobile.formats.tflite.gpu_bytes import Bhwc

HALF_WAVE, FULL_WAVE = 128, 64
"""Work items of a wave where sums are float16, and where they are float32 (AdrenoInfo::GetWaveSize)."""
_COMPUTE_UNITS = {Gpu.ADRENO_7XX: 6}  # of the Adreno 740
_BLOCKS = ((6.0, (1, 1, 1)), (12.0, (2, 1, 1)), (24.0, (2, 1, 2)), (float("inf"), (2, 2, 2)))


@dataclass(frozen=True)
class Work:
    """What a kernel launches and fetches; zeros where the engine's choice is not known.

    Args:
        threads: work items.
        fetches: vectors of four channels that they fetch together.
    """

    threads: int = 0
    fetches: int = 0


def convolution_work(
    gpu: Gpu, shape: Bhwc, steps: int, *, flat: bool = False, group: int = 0, wave: int = HALF_WAVE
) -> Work:
    """Returns the work of a convolution or of a product of matrices.

    Args:
        gpu: the family of GPUs.
        shape: of the result: images, height, width, channels.
        steps: taps times slices of input channels.
        flat: whether a block lies along the width: linear layers, Winograd's products, products of computed values.
        group: slices of output channels in a group of channels; 0 where there is one group only.
        wave: work items of a wave.
    """
    if gpu not in _COMPUTE_UNITS:
        return Work()
    batch, height, width, channels = shape
    slices = _up(channels, 4)
    waves = batch * height * width * slices / _COMPUTE_UNITS[gpu] / wave
    x, y, depth = next(block for most, block in _BLOCKS if waves <= most)
    if flat:
        x, y = x * y, 1
    if group and group % depth:
        depth = 1
    threads = _up(width * batch, x) * _up(height, y) * _up(slices, depth)
    return Work(threads, threads * steps * (x * y + 4 * depth))


def one_position_work(gpu: Gpu, channels: int, steps: int) -> Work:
    """Returns the work of a linear layer at one position (fully_connected.cc): four work items share a slice's sum."""
    if gpu not in _COMPUTE_UNITS:
        return Work()
    slices = _up(channels, 4)
    return Work(4 * slices, slices * steps * 5)


def depthwise_work(gpu: Gpu, shape: Bhwc, taps: int, *, three: bool) -> Work:
    """Returns the work of a depthwise convolution.

    Args:
        gpu: the family of GPUs.
        shape: of the result.
        taps: of the kernel.
        three: whether it is 3×3 without stride, dilation or missing border, which a work item computes for 2×2 pixels
            from 16 fetches and nine of weights (depthwise_conv_3x3.cc); else an input and a weight per tap.
    """
    if gpu not in _COMPUTE_UNITS:
        return Work()
    batch, height, width, channels = shape
    slices = _up(channels, 4)
    if three:
        threads = batch * _up(width, 2) * _up(height, 2) * slices
        return Work(threads, threads * 25)
    threads = batch * width * height * slices
    return Work(threads, threads * 2 * taps)


def _up(number: int, step: int) -> int:
    return -(-number // step)
