"""The rules of Google's GPU runtimes, counted over Stable Diffusion 1.x.

The expected figures are an analytic count from the public architecture, made apart from this code: convolutions that
go through Winograd, and their GMACs per image.
"""

from __future__ import annotations

import pytest

from sdmobile.device_profiles.runtime_rules.conv_layer import ConvLayer
from sdmobile.device_profiles.runtime_rules.winograd import LITERT_DELEGATE, ML_DRIFT, Gpu, RuntimeRule
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
