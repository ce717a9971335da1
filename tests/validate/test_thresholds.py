from __future__ import annotations

from pathlib import Path

import pytest

from sdmobile.errors import UnsupportedError
from sdmobile.validate.thresholds import Limits, Thresholds, read_thresholds

FILE = """
[default]
component_db = 40
image_ssim = 0.9

[component.unet]
component_db = 45

[component.unet.runtime.evaluator]
component_db = 90

[runtime.evaluator-fp16]
component_db = 50
image_db = 20
"""


def test_the_most_particular_limit_wins(tmp_path: Path) -> None:
    file = tmp_path / "limits.toml"
    file.write_text(FILE, "utf-8")
    found = read_thresholds(file)
    assert found.limits("vae_decoder", "coreml").component_db == 40
    assert found.limits("vae_decoder", "evaluator").component_db == 60  # float32 arithmetic
    assert found.limits("vae_decoder", "evaluator", compressed=True).component_db == 40
    assert found.limits("vae_decoder", "evaluator-fp16").component_db == 50
    assert found.limits("unet", "evaluator-fp16").component_db == 45
    assert found.limits("unet", "evaluator").component_db == 90
    assert found.limits(None, "evaluator-fp16") == Limits(50, 20, 0.9, 0)
    assert found.limits(None, "litert").image_db == 35


def test_one_level_for_all() -> None:
    for runtime in ("evaluator", "evaluator-fp16", "litert"):
        assert Thresholds.flat(12.0).limits("unet", runtime) == Limits(12.0, 12.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[default", "readable TOML"),
        ("[defaults]\ncomponent_db = 1", "defaults"),
        ("[default]\npsnr = 1", "psnr"),
        ("[default]\ncomponent_db = '40'", "a threshold is a number"),
        ("[default]\ncomponent_db = true", "a threshold is a number"),
        ("component = 3", r"component\.NAME"),
        ("[runtime.ort]\nfloat32_db = 3", "float32_db"),
        ("[component.unet.runtime]\nort = 3", r"runtime\.NAME"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "limits.toml"
    file.write_text(text, "utf-8")
    with pytest.raises(UnsupportedError, match=message):
        read_thresholds(file)
    with pytest.raises(UnsupportedError, match="readable TOML"):
        read_thresholds(tmp_path / "nowhere.toml")
