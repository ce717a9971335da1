"""`--chunks auto`: parts of the size that a device's profile names."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sdmobile.checkpoints import bundled_checkpoint, open_checkpoint
from sdmobile.cli import app as cli
from sdmobile.device_profiles import load_profile
from sdmobile.device_profiles.fact import Fact
from sdmobile.exporters.part_sizes import AUTO, chunks_for
from sdmobile.exporters.phone_files import turns
from sdmobile.exporters.request import ExportRequest, make_plan


def _checkpoint(millions: float) -> Any:
    """A checkpoint whose denoiser has so many million parameters."""
    tensors = {"weight": SimpleNamespace(shape=(int(1e6 * millions),))}
    family = SimpleNamespace(denoiser=SimpleNamespace(model="unet"))
    return SimpleNamespace(components={"unet": SimpleNamespace(tensors=tensors)}, family=family)


@pytest.mark.parametrize(("millions", "parts"), [(0.1, 1), (500, 1), (501, 2), (859.5, 3), (2567, 7), (6155, 16)])
def test_parts_are_of_the_devices_size(millions: float, parts: int) -> None:
    profile = load_profile("galaxy-s23-ultra")
    assert chunks_for(_checkpoint(millions), profile) == parts
    assert parts == 1 or 0.4e9 < 2e6 * millions / parts <= 1e9


def test_a_profile_of_ones_own_decides() -> None:
    profile = load_profile("galaxy-s23-ultra")
    half = Fact(value=500_000_000, unit="bytes", source="a test", reliability="low")
    own = profile.model_copy(update={"hardware": profile.hardware | {"part_bytes": half}})
    assert chunks_for(_checkpoint(859.5), own) == 5
    silent = profile.model_copy(update={"hardware": {}})
    assert chunks_for(_checkpoint(859.5), silent) == 3


def test_a_plan_has_a_settled_number(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(bundled_checkpoint("shapes-64"))
    plan = make_plan(ExportRequest(None, "android", tmp_path / "x", chunks=AUTO), checkpoint)
    assert plan.request.chunks == 1
    assert plan.job("unet", tmp_path).chunks == 1


@pytest.mark.parametrize("words", ["0", "-1", "some", "1.5", ""])
def test_other_words_are_no_number_of_files(tmp_path: Path, words: str) -> None:
    arguments = ["export", "--target", "android", f"--chunks={words}", "-o", str(tmp_path / "x"), "--dry-run"]
    assert cli.run(arguments) == 2


def test_an_app_is_told_which_files_take_turns() -> None:
    family = open_checkpoint(bundled_checkpoint("shapes-64")).family
    chain = [{"file_name": f"unet_{number}.tflite"} for number in (1, 2)]
    records: dict[str, Any] = {
        "vae_decoder": {"file": "vae_decoder.tflite"},
        "unet": {"file": "unet_1.tflite", "chain": chain},
        "text_encoder": {"file": "text_encoder.tflite", "chain": []},
    }
    assert turns(family, records) == [
        {"component": "text_encoder", "files": ["text_encoder.tflite"], "when": "once per text"},
        {"component": "unet", "files": ["unet_1.tflite", "unet_2.tflite"], "when": "at every step"},
        {"component": "vae_decoder", "files": ["vae_decoder.tflite"], "when": "once per picture, at the end"},
    ]
