"""Whatever a configuration says, a checkpoint opens and builds, or is refused by name: nothing else is raised."""

from __future__ import annotations

import inspect
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sdmobile.checkpoints import open_checkpoint
from sdmobile.checkpoints.modules import empty_module
from sdmobile.errors import SdmobileError, UnsupportedError
from sdmobile.families import FAMILIES, family_named
from sdmobile.reference.pipeline import PipelineSpec
from tests.families.tiny import write_tiny

BAD = (None, "x", -1, 0, 1.5, True, [], {}, 10**9, [1, 2, 3], ["x"], float("nan"), float("inf"), 1e308)
# What the tiny checkpoints leave to defaults.
FURTHER = {
    "text_encoder": ("rope_theta", "rope_parameters", "rms_norm_eps", "layer_norm_eps", "sliding_window", "hidden_act"),
    "scheduler": ("shift", "shift_terminal", "use_dynamic_shifting", "picture_tokens", "sigma_data", "timesteps"),
}


def keys_of(part: str, config: dict[str, Any]) -> list[str]:
    """Returns the settings of a part: those that it has, and those that its class knows besides."""
    import diffusers

    own = getattr(diffusers, str(config.get("_class_name")), None)
    declared = inspect.signature(own.__init__).parameters if own and part not in FURTHER else ()
    return sorted({*config, *declared, *FURTHER.get(part, ())} - {"self", "kwargs"})


def cases(part: str, config: dict[str, Any], every: bool) -> Iterator[tuple[str, Any]]:
    for key in keys_of(part, config):
        chosen = BAD if every else (BAD[zlib.crc32(key.encode()) % len(BAD)],)
        yield from ((key, bad) for bad in chosen)


def use(folder: Path) -> None:
    """Opens a checkpoint, makes its schedule and builds its networks."""
    checkpoint = open_checkpoint(folder)
    spec = PipelineSpec.from_checkpoint(checkpoint)
    spec.family.scheduler_document(spec.scheduler_config, checkpoint.scaling_factor, checkpoint.shift_factor)
    for model in checkpoint.family.models:
        empty_module(model, checkpoint.components[model.name].config)


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["one each", "every"])
@pytest.mark.parametrize("family", [family.name for family in FAMILIES])
def test_bad_settings_are_refused_or_taken(family: str, every: bool, tmp_path: Path) -> None:
    folder = write_tiny(family, tmp_path / "tiny")
    use(folder)
    files = [folder / "model_index.json", *sorted(folder.glob("*/*config.json"))]
    for file in (one for one in files if one.parent.name != "tokenizer"):
        whole = file.read_text("utf-8")
        for key, bad in cases(file.parent.name, json.loads(whole), every):
            file.write_text(json.dumps({**json.loads(whole), key: bad}), "utf-8")
            try:
                use(folder)
            except SdmobileError:
                continue
            except Exception as error:
                raise AssertionError(f"{file.parent.name}: {key} = {bad!r}") from error
        file.write_text(whole, "utf-8")


@pytest.mark.parametrize(
    ("family", "model", "key", "bad"),
    [
        ("stable-diffusion", "unet", "norm_eps", "x"),
        ("stable-diffusion", "unet", "norm_eps", None),
        ("stable-diffusion", "unet", "norm_eps", float("nan")),
        ("stable-diffusion", "unet", "freq_shift", "x"),
        ("stable-diffusion", "unet", "freq_shift", 1.5),
        ("mobile-diffusion", "unet", "norm_eps", True),
        ("z-image", "transformer", "norm_eps", "x"),
        ("sana-sprint", "transformer", "timestep_scale", "x"),
    ],
)
def test_numbers_that_no_weight_tells_are_numbers(family: str, model: str, key: str, bad: Any, tmp_path: Path) -> None:
    """A network takes anything, and fails when it runs."""
    checkpoint = open_checkpoint(write_tiny(family, tmp_path / "tiny"))
    config = checkpoint.components[model].config
    empty_module(family_named(family).model(model), config)
    with pytest.raises(UnsupportedError, match=key):
        empty_module(family_named(family).model(model), {**config, key: bad})
