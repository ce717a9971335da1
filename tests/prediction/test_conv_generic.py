"""Blocks, work items and fetches of the convolution kernel on Adreno, worked out by hand from the engine's rule."""

from __future__ import annotations

import pytest

from benchmarks.calibration.stored import stored_graph
from sdmobile.device_profiles.runtime_rules.winograd import Gpu
from sdmobile.prediction.kernels.conv_generic import Work, convolution_work, depthwise_work, one_position_work
from sdmobile.prediction.kernels.google_gpu import ml_drift_kernels, tflite_gpu_kernels
from tests.prediction.small_graphs import Small

_GPU = Gpu.ADRENO_7XX
_WAVES = 6 * 128  # compute units times work items of a wave


@pytest.mark.parametrize(
    ("waves", "block"),
    [(6, (1, 1, 1)), (7, (2, 1, 1)), (12, (2, 1, 1)), (13, (2, 1, 2)), (24, (2, 1, 2)), (25, (2, 2, 2))],
)
def test_the_block_grows_with_the_waves_per_compute_unit(waves: int, block: tuple[int, int, int]) -> None:
    x, y, depth = block
    shape = (1, 4, waves * _WAVES // 4 // 4, 16)  # four slices of channels
    threads = 4 * shape[2] * 4 // (x * y * depth)
    assert convolution_work(_GPU, shape, 9) == Work(threads, threads * 9 * (x * y + 4 * depth))


def test_a_flat_block_lies_along_the_width() -> None:
    shape = (1, 1, 25 * _WAVES // 4, 16)
    threads = shape[2] // 4 * 2
    assert convolution_work(_GPU, shape, 1, flat=True) == Work(threads, threads * 12)
    assert convolution_work(_GPU, shape, 1).threads == 2 * threads  # 2×2 pixels of one row: half of the block is empty


def test_a_block_does_not_cross_groups() -> None:
    shape = (1, 64, 64, 256)
    assert convolution_work(_GPU, shape, 1, group=3) == Work(32 * 32 * 64, 32 * 32 * 64 * 8)
    assert convolution_work(_GPU, shape, 1, group=4) == Work(32 * 32 * 32, 32 * 32 * 32 * 12)


def test_depthwise_and_one_position() -> None:
    assert depthwise_work(_GPU, (1, 15, 16, 8), 9, three=True) == Work(8 * 8 * 2, 8 * 8 * 2 * 25)
    assert depthwise_work(_GPU, (1, 15, 16, 8), 25, three=False) == Work(15 * 16 * 2, 15 * 16 * 2 * 50)
    assert one_position_work(_GPU, 1000, 320) == Work(1000, 250 * 320 * 5)


def test_nothing_is_said_of_another_gpu() -> None:
    assert convolution_work(Gpu.OTHER, (1, 64, 64, 64), 9) == Work()
    assert not any(k.fetches for k in ml_drift_kernels(stored_graph("sd15_512_unet"), Gpu.OTHER))


@pytest.mark.parametrize(
    "name", ["mobilenet_v4_conv_l", "deeplabv3_resnet50_224", "whisper_tiny_encoder", "regnety_032"]
)
def test_all_arithmetic_of_public_models_is_counted_in_fetches(name: str) -> None:
    kernels = tflite_gpu_kernels(stored_graph(name))
    busy = [kernel for kernel in kernels if kernel.macs and kernel.category != "winograd"]
    assert all(kernel.fetches > 0 and kernel.threads > 0 for kernel in busy)
    assert all(1.0 < kernel.macs / kernel.fetches <= 128 / 12 for kernel in busy if kernel.category == "matmul")


def test_groups_that_are_no_multiple_of_four_are_convolutions_of_their_own() -> None:
    small = Small()
    image = small.input(1, 16, 16, 30)
    result = small.op("conv_2d", [image, small.weights(30, 3, 3, 6)], (1, 16, 16, 30), strideH=1, strideW=1)
    kernels = ml_drift_kernels(small.graph(result))[1:-1]
    assert [kernel.category for kernel in kernels] == ["copy", *["conv"] * 5, "copy"]
    assert sum(kernel.operator_macs for kernel in kernels) == 16 * 16 * 30 * 9 * 6
    assert {kernel.macs for kernel in kernels[1:-1]} == {16 * 16 * 8 * 9 * 8}


def test_groups_of_fours_are_one_kernel() -> None:
    small = Small()
    image = small.input(1, 16, 16, 32)
    result = small.op("conv_2d", [image, small.weights(32, 3, 3, 8)], (1, 16, 16, 32), strideH=1, strideW=1)
    (kernel,) = ml_drift_kernels(small.graph(result))[1:-1]
    assert kernel.fetches == 16 * 16 * 8 * 9 * 2 * 5  # blocks of one pixel and slice
