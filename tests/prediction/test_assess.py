"""The assessment of a bundle: its sums against the parts computed by themselves, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.calibration.stable_diffusion import image_time
from sdmobile.device_profiles import load_profile
from sdmobile.errors import UnsupportedError
from sdmobile.formats.bundle.reading import Bundle
from sdmobile.formats.graph import FileGraph, Operation, Tensor
from sdmobile.formats.graph.graph import one_row
from sdmobile.prediction.assess import assess, bundle_memory
from sdmobile.prediction.assess_device import ChosenUnit, choose_unit, predictable
from sdmobile.prediction.assess_savings import savings, uncompressed
from sdmobile.prediction.component_cost import component_cost, joined, predict_files
from sdmobile.prediction.kernels import kernels_of
from sdmobile.prediction.latency import predict
from sdmobile.prediction.memory import ML_DRIFT, plan_graph
from tests.prediction.assessed import sd15, sd15_bundle, sd15_graph

__all__ = ["sd15"]


@pytest.fixture
def phone() -> ChosenUnit:
    return choose_unit("galaxy-s23-ultra")


def test_the_image_is_that_of_the_calibration(sd15: Bundle, phone: ChosenUnit) -> None:
    assessment = assess(sd15, phone)
    expected = image_time(phone.model)
    assert assessment.image is not None
    assert assessment.image.seconds == pytest.approx(expected.seconds, rel=1e-9)
    assert assessment.image.seconds == pytest.approx(11.5, rel=0.01)  # published; it fixes the engine's factor
    assert (assessment.image.low, assessment.image.high) == (None, None)  # no row of this engine was ever left out
    assert [part.calls for part in assessment.components] == [2, 20, 1, 0]


def test_guidance_in_two_calls_takes_twice_one_row(sd15: Bundle, phone: ChosenUnit) -> None:
    unet = next(component.path for component in sd15.components.values() if component.name == "unet")
    graph = sd15_graph(unet)
    single = predict(kernels_of(one_row(graph), phone.unit, phone.rules), phone.model).seconds
    assessment = assess(sd15, phone, steps=10, guidance="separate")
    assert assessment.image is not None
    assert assessment.image.unet == pytest.approx(20 * single)
    assert assessment.separate == pytest.approx(2 * single)
    assert assessment.batched == pytest.approx(assess(sd15, phone).components[1].prediction.seconds)
    none = assess(sd15, phone, steps=10, guidance="none")
    assert none.image is not None
    assert none.image.unet == pytest.approx(10 * single)
    assert none.image.text == pytest.approx(assessment.image.text / 2)


def test_memory_is_weights_and_arena_of_what_an_image_needs(sd15: Bundle, phone: ChosenUnit) -> None:
    assessment = assess(sd15, phone)
    peaks = [part.memory[0].peak for part in assessment.components if part.calls]
    together, in_turn = assessment.budgets
    assert (together.needed, in_turn.needed) == (sum(peaks), max(peaks))
    unet = assessment.components[1]
    arena = plan_graph(unet.graphs[0], ML_DRIFT, unet.kernels[0]).arena
    assert unet.memory[0].activations.arena == arena
    assert unet.memory[0].peak == unet.memory[0].resident + arena
    assert unet.memory[0].resident > 2 * 859e6  # all weights of SD1.5's UNet in float16
    assert bundle_memory(sd15) == assessment.budgets


def test_advice_is_for_the_files_of_the_target(sd15: Bundle, phone: ChosenUnit) -> None:
    texts = " ".join(advice.text for check in assess(sd15, phone).budgets for advice in check.advice)
    assert "one component at a time" in texts
    assert "palettes" not in texts  # a form of Core ML's files
    assert "chunks" not in texts


def test_the_shares_of_kernels_and_fixed_costs_make_the_image(sd15: Bundle, phone: ChosenUnit) -> None:
    assessment = assess(sd15, phone)
    assert assessment.image is not None
    fixed = sum(part.calls * part.prediction.fixed for part in assessment.components) / assessment.image.seconds
    every = assessment.costliest(1 << 30)
    assert sum(cost.share for cost in every) + fixed == pytest.approx(1.0)
    assert [cost.image_seconds for cost in every] == sorted((cost.image_seconds for cost in every), reverse=True)
    assert len(assessment.costliest(3)) == 3


def test_without_a_component_there_is_no_image_but_a_reason(sd15: Bundle, phone: ChosenUnit) -> None:
    assessment = assess(sd15_bundle(("unet",)), phone)
    assert assessment.image is None
    assert assessment.notes == ("no prediction of an image: the bundle has no text_encoder, vae_decoder",)
    assert assessment.components[0].prediction.seconds == pytest.approx(
        assess(sd15, phone).components[1].prediction.seconds
    )


def test_what_choices_save(sd15: Bundle, phone: ChosenUnit) -> None:
    assessment = assess(sd15, phone)
    assert assessment.image is not None
    by_name = {saving.choice: saving for saving in assessment.savings}
    assert list(by_name) == ["Winograd", "FlashAttention", "any fused softmax", "norms as one kernel"]
    for saving in by_name.values():
        assert saving.with_seconds == pytest.approx(assessment.image.seconds)
        assert saving.seconds > 0
    # Switching the choice off by the rules of the engine itself gives the same.
    flash = choose_unit(phone.profile)
    rules = phone.rules
    assert rules is not None
    calls = {"text_encoder": 2, "unet": 20, "vae_decoder": 1}
    without = sum(
        count
        * predict(
            kernels_of(sd15_graph(sd15.components[name].path), flash.unit, rules.model_copy(update={"flash": False})),
            flash.model,
        ).seconds
        for name, count in calls.items()
    )
    assert by_name["FlashAttention"].without_seconds == pytest.approx(without)
    assert by_name["any fused softmax"].seconds > by_name["FlashAttention"].seconds


def test_winograd_saves_only_where_a_kernel_uses_it(phone: ChosenUnit) -> None:
    graph = sd15_graph(sd15_bundle().components["text_encoder"].path)
    part = component_cost("text_encoder", (graph,), phone, 1)
    assert not any(kernel.category == "winograd" for kernel in part.kernels[0])
    assert "Winograd" not in {saving.choice for saving in savings([part], phone)}


def test_a_recipe_is_compared_with_float16_weights(phone: ChosenUnit) -> None:
    tensors = {
        "x": Tensor("x", (1, 1, 1, 4096), "float32", False),
        "w": Tensor("w", (4096, 4096), "int8", True, 4096 * 4096),
        "b": Tensor("b", (4096,), "float32", True, 4 * 4096),
        "y": Tensor("y", (1, 1, 1, 4096), "float32", False),
    }
    operations = (Operation("fully_connected", "linear", ("x", "w", "b"), ("y",)),)
    graph = FileGraph("tflite", tensors, operations, ("x",), ("y",), 4096 * 4096)
    dense = uncompressed(graph).tensors
    assert (dense["w"].dtype, dense["w"].stored_bytes) == ("float16", 2 * 4096 * 4096)
    assert dense["b"] == tensors["b"]
    part = component_cost("unet", (graph,), phone, 1, recipe="int8")
    (saving,) = (saved for saved in savings([part], phone) if saved.choice.startswith("recipe"))
    # One product reads its weights once: the saved bytes at the achieved bandwidth.
    assert saving.seconds == pytest.approx(4096 * 4096 / phone.model.parameters.bandwidth, rel=0.01)


def test_files_in_a_row_add_up(phone: ChosenUnit) -> None:
    graphs = [sd15_graph(sd15_bundle().components[name].path) for name in ("text_encoder", "vae_decoder")]
    alone = [predict_files([graph], phone)[1] for graph in graphs]
    _, both = predict_files(graphs, phone)
    for name in ("seconds", "fixed"):
        assert getattr(both, name) == pytest.approx(sum(getattr(each, name) for each in alone))
    assert (both.low, both.high) == (None, None)
    bounded = [replace(each, low=0.5 * each.seconds, high=2.0 * each.seconds) for each in alone]
    found = joined(bounded)
    assert (found.low, found.high) == pytest.approx((0.5 * found.seconds, 2.0 * found.seconds))
    assert len(both.times) == sum(len(series.times) for series in alone)
    assert joined(alone).first_run == both.first_run


def test_json_says_that_it_is_predicted_and_from_where(sd15: Bundle, phone: ChosenUnit) -> None:
    data = assess(sd15, phone).to_json(3)
    assert data["predicted"] is True
    assert (data["device"], data["unit"], data["reliability"]) == ("galaxy-s23-ultra", "gpu", "low")
    assert any("arXiv 2304.11267" in source for source in data["sources"].values())
    assert len(data["costliest"]) == 3
    assert "measured" not in str(data.keys())


def test_a_bundle_for_another_target_is_refused_with_the_fix(sd15: Bundle) -> None:
    with pytest.raises(UnsupportedError, match=r"bundle is for android.*--unit gpu-metal.*--target ios"):
        assess(sd15, choose_unit("iphone-14-pro-max"))
    assert assess(sd15, choose_unit("iphone-14-pro-max", "gpu-metal")).image is not None


def test_guidance_that_the_files_do_not_have_is_refused(sd15: Bundle, phone: ChosenUnit) -> None:
    single = replace(sd15, guidance="separate")
    with pytest.raises(UnsupportedError, match=r"exported for separate.*--guidance batch2"):
        assess(single, phone, guidance="batch2")
    with pytest.raises(UnsupportedError, match="batch2, separate, none"):
        assess(sd15, phone, guidance="both")


def test_units_are_chosen_by_name() -> None:
    assert choose_unit("iphone-15-pro").name == "neural-engine"
    assert choose_unit("iphone-15-pro", "gpu").unit.runtime == "coreml-gpu"
    with pytest.raises(UnsupportedError, match=r"npu. Did you mean gpu\?.*tflite-gpu"):
        choose_unit("galaxy-s23-ultra", "npu")
    bare = load_profile("galaxy-s23-ultra").model_copy(update={"units": {}, "latency": {}})
    with pytest.raises(UnsupportedError, match=r"has none.*possible for .*galaxy-s23-ultra"):
        choose_unit(bare)
    assert predictable(bare) == ()


def test_reliability_is_the_least_of_the_values_used() -> None:
    unit = choose_unit("galaxy-s23-ultra", "tflite-gpu")
    assert unit.reliability == "low"  # the peak is derived
    peak = unit.unit.peak_macs.model_copy(update={"reliability": "high"})
    table = unit.unit.model_copy(update={"peak_macs": peak})
    profile = unit.profile.model_copy(update={"units": {**unit.profile.units, "tflite-gpu": table}})
    assert ChosenUnit(profile, "tflite-gpu").reliability == "medium"
