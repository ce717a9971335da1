"""The rules of Google's GPU runtimes, counted over Stable Diffusion 1.x.

The expected figures are an analytic count from the public architecture, made apart from this code: convolutions that
go through Winograd, and their GMACs per image.
"""

from __future__ import annotations

import pytest

from sdmobile.device_profiles import load_profile
from sdmobile.device_profiles.runtime_rules.conv_layer import ConvLayer
from sdmobile.device_profiles.runtime_rules.winograd import LITERT_DELEGATE, ML_DRIFT, Gpu, RuntimeRule
from sdmobile.formats.tflite.gpu_bytes import gpu_bytes
from sdmobile.lint.limits import limits_of
from tests.rewrites.winograd.layers import of_interest, sd15_unet, sd_decoder

ADRENO, APPLE = Gpu.ADRENO_7XX, Gpu.OTHER
UNET = [
    # pixels, GPU, rule, batch, convolutions, GMACs per image
    (512, ADRENO, LITERT_DELEGATE, 1, 22, 132.12),
    (512, ADRENO, LITERT_DELEGATE, 2, 22, 132.12),
    (512, ADRENO, ML_DRIFT, 1, 11, 67.95),
    (512, ADRENO, ML_DRIFT, 2, 22, 132.12),
    (512, APPLE, LITERT_DELEGATE, 1, 22, 132.12),
    (512, APPLE, LITERT_DELEGATE, 2, 22, 132.12),
    (512, APPLE, ML_DRIFT, 1, 22, 132.12),
    (512, APPLE, ML_DRIFT, 2, 33, 181.19),
    (256, ADRENO, LITERT_DELEGATE, 1, 11, 16.99),
    (256, ADRENO, ML_DRIFT, 1, 0, 0.0),
    (256, ADRENO, ML_DRIFT, 2, 11, 16.99),
    (256, APPLE, ML_DRIFT, 1, 11, 16.99),
    (256, APPLE, ML_DRIFT, 2, 22, 33.03),
]


@pytest.mark.parametrize(("pixels", "gpu", "rule", "batch", "count", "gmacs"), UNET)
def test_unet(pixels: int, gpu: Gpu, rule: RuntimeRule, batch: int, count: int, gmacs: float) -> None:
    layers = of_interest(sd15_unet(pixels, batch)[0])
    chosen = [layer for layer in layers if rule.objection(layer, gpu) is None]
    assert len(layers) == 49
    assert len(chosen) == count
    assert sum(layer.macs for layer in chosen) / batch / 1e9 == pytest.approx(gmacs, abs=0.006)


@pytest.mark.parametrize("gpu", [ADRENO, APPLE])
@pytest.mark.parametrize("rule", [LITERT_DELEGATE, ML_DRIFT], ids=lambda rule: rule.name)
def test_decoder(gpu: Gpu, rule: RuntimeRule) -> None:
    layers = of_interest(sd_decoder(512)[0])
    chosen = [layer for layer in layers if rule.objection(layer, gpu) is None]
    assert (len(chosen), len(layers)) == (31, 33)
    assert sum(layer.macs for layer in chosen) / 1e9 == pytest.approx(1217.62, abs=0.006)


def test_objections_name_the_value() -> None:
    layer = ConvLayer(1, (96, 320), (64, 64))
    assert ML_DRIFT.objection(layer, Gpu.ADRENO_7XX) == "96 channels; ml-drift wants 128 on adreno7xx"
    assert ML_DRIFT.objection(layer, Gpu.OTHER) is None
    small = ConvLayer(1, (320, 320), (32, 32))
    assert ML_DRIFT.objection(small, Gpu.ADRENO_7XX) == "64 tiles; ml-drift wants 128 on adreno7xx"


@pytest.mark.parametrize(
    ("channels", "gpu", "buffer"),
    [
        ((64, 72), APPLE, (36 * 64, 72)),
        ((66, 72), APPLE, (36 * 68, 72)),  # input channels are computed in fours
        ((60, 72), APPLE, None),  # computed directly
        ((1280, 1280), ADRENO, None),  # four textures of 11,520 rows
        ((1820, 640), ADRENO, None),  # of 16,380
        ((1824, 640), ADRENO, (36 * 1824, 640)),  # 16,416 rows are too many for an image
    ],
)
def test_transformed_weights_in_one_buffer(channels: tuple[int, int], gpu: Gpu, buffer: tuple[int, int] | None) -> None:
    assert ML_DRIFT.weight_buffer(ConvLayer(2, channels, (32, 32)), gpu) == buffer


def test_no_transformed_weights_of_stable_diffusion_exceed_a_galaxy() -> None:
    """At two bytes per float; 1920 to 640 channels are the only ones that Adreno holds in a buffer."""
    limits = limits_of(load_profile("galaxy-s23-ultra"))
    layers = of_interest(sd15_unet(512, 2)[0])
    buffers = {shape for layer in layers if (shape := ML_DRIFT.weight_buffer(layer, limits.gpu)) is not None}
    assert buffers == {(36 * 1920, 640)}
    assert limits.buffer_bytes is not None
    assert all(gpu_bytes(shape, "FLOAT32", limits.float_bytes) <= limits.buffer_bytes for shape in buffers)
