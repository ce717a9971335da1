"""Which precision an app should ask the GPU for: by simulation of the graph that was exported."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdmobile.device_profiles import load_profile
from sdmobile.errors import UnsupportedError
from sdmobile.families.model_card import model_card
from sdmobile.formats.bundle.reading import open_bundle
from sdmobile.rewrites.options import RewriteOptions
from sdmobile.rewrites.registry import rules_for
from sdmobile.rewrites.rounded import rounded_range
from sdmobile.validate.check import validate_bundle
from sdmobile.validate.gpu_precision import ACCUMULATING, FULL, NAME, advised, rules_of
from sdmobile.validate.options import ValidationOptions
from tests.synthetic import write_checkpoint
from tests.validate.bundles import write_exported_bundle

WEIGHTS = "text_encoder/model.safetensors"


@pytest.mark.parametrize(
    ("decibels", "largest", "advice", "words"),
    [
        (70.0, 1e3, ACCUMULATING, "LiteRT 2.2 or newer"),
        (35.0, 32752.0, ACCUMULATING, "35.0 dB"),
        (34.9, 1e3, FULL, "35 dB are needed"),
        (70.0, 32753.0, FULL, "float16 ends at 65504"),
        (math.nan, 1e3, FULL, "nan dB"),
    ],
)
def test_the_advice(decibels: float, largest: float, advice: str, words: str) -> None:
    found, why = advised(decibels, largest, 35.0)
    assert found == advice
    assert words in why


@pytest.mark.parametrize("options", [RewriteOptions(), RewriteOptions(True), RewriteOptions(without=("geglu_split",))])
def test_the_rules_of_a_record_are_those_that_ran(options: RewriteOptions) -> None:
    profile = load_profile("galaxy-s23-ultra")
    ran = [rule.name for rule in rules_for(profile, options)]
    assert [rule.name for rule in rules_of({"rewrites": [{"rule": name} for name in ran]}, profile)] == ran


def test_rules_of_another_device_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="those of its device"):
        rules_of({"rewrites": [{"rule": "attention_split_einsum"}]}, load_profile("galaxy-s23-ultra"))


def test_values_that_are_infinite_on_purpose_do_not_count() -> None:
    class Masked(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.softmax(x * 100 + torch.where(torch.arange(4) > 1, -math.inf, 0.0), -1)

    x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    outputs, largest = rounded_range(torch.export.export(Masked(), (x,)), (x,))
    assert largest == 400.0
    assert torch.isfinite(outputs[0]).all()


@pytest.mark.parametrize("factor", [1.0, 2e4])
def test_a_bundle_is_told_what_float16_makes_of_it(factor: float, tmp_path: Path) -> None:
    """Twenty thousand times as large, the text encoder's last norm passes float16's range, and float32's not."""
    folder = write_checkpoint(tmp_path / "checkpoint")
    tensors = load_file(folder / WEIGHTS)
    name = next(name for name in tensors if name.endswith("final_layer_norm.weight"))
    tensors[name] = tensors[name].float() * factor
    save_file(tensors, folder / WEIGHTS)
    bundle = write_exported_bundle(tmp_path / "bundle", folder, "android", ("text_encoder",))
    options = ValidationOptions(reference=folder, trajectory=False, precision=True)
    validation = validate_bundle(bundle, options)
    (check,) = [extra for extra in validation.report.extras if extra.checker == NAME]
    assert check.status.value == "passed"
    expected = ACCUMULATING if factor == 1 else FULL
    assert check.findings[0].startswith(expected)
    assert f"- Text encoder: {expected}" in model_card(open_bundle(bundle).manifest, validation.report.to_json())
    if factor == 1:
        assert 60 < check.figures["psnr_db"] < 90


def test_only_android_has_such_a_choice(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint")
    bundle = write_exported_bundle(tmp_path / "bundle", folder, "ios", ("text_encoder",))
    options = ValidationOptions(reference=folder, trajectory=False, precision=True)
    (check,) = [extra for extra in validate_bundle(bundle, options).report.extras if extra.checker == NAME]
    assert check.status.value == "not run"
