"""The kernels of Stable Diffusion 1.5 at 512 pixels against counts known from the architecture and the engines' rules.

The counts are analytic, from the public architecture: 401.64 GMACs of the UNet per image, 1257.26 of the decoder, 6.65
of the text encoder; 5 attentions of 32 have 4096 queries and keys and 40 channels per head.
"""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest

from benchmarks.calibration.stored import stored_graph
from sdmobile.device_profiles.runtime_rules.attention_kernels import KernelRules
from sdmobile.device_profiles.runtime_rules.kernel import Kernel
from sdmobile.device_profiles.runtime_rules.winograd import Gpu
from sdmobile.errors import UnsupportedError
from sdmobile.formats.graph.graph import one_row
from sdmobile.prediction.kernels.google_gpu import ml_drift_kernels, tflite_gpu_kernels


@cache
def _kernels(component: str, batch: int = 1, gpu: Gpu = Gpu.ADRENO_7XX) -> tuple[Kernel, ...]:
    graph = stored_graph(f"sd15_512_{component}")
    return ml_drift_kernels(one_row(graph) if component == "unet" and batch == 1 else graph, gpu)


def _gmacs(kernels: list[Kernel] | tuple[Kernel, ...], field: str = "operator_macs") -> float:
    return sum(getattr(kernel, field) for kernel in kernels) / 1e9


@pytest.mark.parametrize(
    ("component", "batch", "gmacs"),
    [("unet", 1, 401.64), ("unet", 2, 803.28), ("vae_decoder", 1, 1257.26), ("text_encoder", 1, 6.65)],
)
def test_the_operators_have_the_macs_of_the_architecture(component: str, batch: int, gmacs: float) -> None:
    assert _gmacs(_kernels(component, batch)) == pytest.approx(gmacs, abs=0.005)


def test_half_a_batch_is_refused_where_there_is_none() -> None:
    with pytest.raises(UnsupportedError, match="a batch of 2"):
        one_row(stored_graph("sd15_512_vae_decoder"))


@pytest.mark.parametrize(
    ("component", "batch", "gpu", "count", "gmacs"),
    [
        ("unet", 1, Gpu.ADRENO_7XX, 11, 67.95),
        ("unet", 2, Gpu.ADRENO_7XX, 22, 2 * 132.12),
        ("unet", 1, Gpu.OTHER, 22, 132.12),
        ("unet", 2, Gpu.OTHER, 33, 2 * 181.19),
        ("vae_decoder", 1, Gpu.ADRENO_7XX, 31, 1217.62),
    ],
)
def test_winograd_takes_what_the_engine_s_rule_takes(
    component: str, batch: int, gpu: Gpu, count: int, gmacs: float
) -> None:
    products = [k for k in _kernels(component, batch, gpu) if k.category == "winograd" and k.macs]
    assert len(products) == count
    assert _gmacs(products) == pytest.approx(gmacs, abs=0.005 * batch)
    # 36 products per 4x4 tile instead of 144; sizes here are multiples of 4
    assert 4 * sum(kernel.macs for kernel in products) == sum(kernel.operator_macs for kernel in products)


def test_each_winograd_convolution_is_three_launches() -> None:
    assert Counter(k.category for k in _kernels("unet", 2))["winograd"] == 3 * 22


def test_attentions_are_flash_exactly_where_the_rule_says() -> None:
    kernels = _kernels("unet", 2)
    flash = [kernel for kernel in kernels if kernel.category == "attention"]
    assert {kernel.note for kernel in flash} == {"flash: 16 heads, 4096 by 4096, 40 wide"}
    assert len(flash) == 5
    assert _gmacs(flash) == pytest.approx(5 * 16 * 4096 * 4096 * 80 / 1e9)
    # the other 27: scores written by one kernel, reduced by one, read again by the product
    assert sum(kernel.category == "softmax" for kernel in kernels) == 27
    # query, key and value in, result out; no score
    assert {kernel.read_bytes for kernel in flash} == {3 * 16 * 4096 * 40 * 2}
    assert {kernel.write_bytes for kernel in flash} == {16 * 4096 * 40 * 2}


def test_norms_are_one_kernel_each_with_the_activation_behind_them() -> None:
    kernels = _kernels("vae_decoder")
    norms = [kernel for kernel in kernels if kernel.category == "norm"]
    assert len(norms) == 30
    # the norm of the mid block's attention is the one without SiLU
    assert sum(len(kernel.operations) == 3 for kernel in norms) == 29


def test_weights_are_read_once_in_float16() -> None:
    """Winograd's weights are four times as large; all else is two bytes per parameter."""
    kernels = _kernels("unet", 1)
    transformed = sum(k.weight_bytes for k in kernels if k.category == "winograd" and k.macs)
    graph = stored_graph("sd15_512_unet")
    stored = sum(t.elements for t in graph.tensors.values() if t.constant and t.dtype == "float16") * 2
    total = sum(kernel.weight_bytes for kernel in kernels)
    assert total - transformed * 3 / 4 == pytest.approx(stored, rel=0.005)


def test_a_softmax_that_is_no_part_of_a_product_costs_a_pass_over_the_probabilities() -> None:
    graph = stored_graph("sd15_512_unet")
    rules = KernelRules(flash=False)
    partly, apart = (
        sum(k.bytes for k in ml_drift_kernels(graph, rules=chosen))
        for chosen in (rules, rules.model_copy(update={"reduce_over": 4096}))
    )
    # 8 heads, queries by keys of each attention; 77 keys are stored as 80
    own = {4096: 5, 1024: 5, 256: 5, 64: 1}
    # read once more, for a row is gone over twice, and written
    scores = 2 * 2 * 8 * sum(count * queries * (queries + 80) for queries, count in own.items())
    assert apart - partly == pytest.approx(2 * scores, rel=0.01)


def test_the_classic_delegate_refuses_composites() -> None:
    with pytest.raises(UnsupportedError, match=r"odml\.group_norm"):
        tflite_gpu_kernels(stored_graph("sd15_512_unet"))
