"""The tables that ship are what Diffusers gives now, and are taken for every configuration that means the same."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from sdmobile.basics.files import hash_json
from sdmobile.checkpoints.bundled import BUNDLED, bundled_checkpoint
from sdmobile.errors import CheckpointError
from sdmobile.families import kept_tables
from sdmobile.families.flow_matching import EULER as FLOW_EULER
from sdmobile.families.kept_tables import CONSISTENCY, FLOW, MAKERS, STANDARD, essence, known_loop, loop_of, shipped
from sdmobile.families.sampler_tables import Loop
from sdmobile.families.schedulers import LCM, STABLE_DIFFUSION
from sdmobile.families.usual_schedules import class_defaults, usual_schedules

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
EULER = {**BETAS, "_class_name": "EulerDiscreteScheduler", "_diffusers_version": "0.19.0.dev0", "clip_sample": False}
# As they are published.
PUBLISHED: dict[str, dict[str, Any]] = {
    "stable-diffusion-v1-5": {
        **BETAS,
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
        "clip_sample": False,
    },
    "stable-diffusion-2-1": {
        **BETAS,
        "_class_name": "DDIMScheduler",
        "clip_sample": False,
        "prediction_type": "v_prediction",
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
    },
    "stable-diffusion-xl-base-1.0": {
        **EULER,
        "interpolation_type": "linear",
        "prediction_type": "epsilon",
        "sample_max_value": 1.0,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "trained_betas": None,
        "use_karras_sigmas": False,
    },
    "sd-turbo": {
        **EULER,
        "interpolation_type": "linear",
        "prediction_type": "epsilon",
        "sample_max_value": 1.0,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "timestep_spacing": "trailing",
        "timestep_type": "discrete",
        "trained_betas": None,
        "use_karras_sigmas": False,
    },
}


def _same(ours: Loop, theirs: Loop) -> None:
    """Equal but for the last digits, which a processor's way to solve least squares decides, and PyTorch's to compute
    logarithms and products in float32: on two computers, what Diffusers gives was up to 2e-5 apart.
    """
    assert (ours.note, ours.prediction_type, ours.lengths) == (theirs.note, theirs.prediction_type, theirs.lengths)
    assert ours.alphas_cumprod == pytest.approx(theirs.alphas_cumprod, rel=1e-5)
    assert len(ours.solvers) == len(theirs.solvers)
    for mine, other in zip(ours.solvers, theirs.solvers, strict=True):
        assert {**vars(mine), "steps": None} == {**vars(other), "steps": None}
        assert list(mine.steps) == list(other.steps)
        for steps, rows in mine.steps.items():
            assert len(rows) == len(other.steps[steps])
            for row, wanted in zip(rows, other.steps[steps], strict=True):
                assert list(row) == list(wanted)
                assert row == pytest.approx(wanted, rel=1e-5, abs=1e-5)


def test_the_shipped_file_is_not_stale() -> None:
    document = json.loads(lzma.decompress(kept_tables.SHIPPED.read_bytes()))
    assert document["code"] == kept_tables.code(), "run `make scheduler-tables`"
    assert document["defaults"] == class_defaults(), "run `make scheduler-tables`"
    wanted = {hash_json([kind, essence(config, document["defaults"])]) for kind, config in usual_schedules()}
    assert set(document["loops"]) == wanted, "run `make scheduler-tables`"
    assert kept_tables.SHIPPED.stat().st_size < 300_000


@pytest.mark.parametrize("number", range(len(list(usual_schedules()))))
def test_a_shipped_loop_is_what_diffusers_gives(number: int) -> None:
    kind, config = list(usual_schedules())[number]
    known = known_loop(config, kind)
    assert known is not None
    _same(known, MAKERS[kind](config))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_configuration_is_known_and_means_what_it_says(name: str) -> None:
    known = known_loop(PUBLISHED[name])
    assert known is not None
    _same(known, MAKERS[STANDARD](PUBLISHED[name]))


@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_checkpoints_are_known(name: str) -> None:
    config = json.loads((bundled_checkpoint(name) / "scheduler/scheduler_config.json").read_text())
    kind = FLOW if config["_class_name"] == FLOW_EULER else STANDARD
    assert known_loop(config, kind) in shipped().values()


def test_settings_without_effect_make_no_other_key_and_others_do() -> None:
    defaults = class_defaults()
    same = {**STABLE_DIFFUSION, "clip_sample": True, "steps_offset": 0, "_diffusers_version": "9", "nobody": "knows"}
    assert essence(same, defaults) == essence(STABLE_DIFFUSION, defaults)
    for changed in ({"beta_end": 0.013}, {"timestep_spacing": "trailing"}, {"rescale_betas_zero_snr": True}):
        assert known_loop({**STABLE_DIFFUSION, **changed}) is None
    other = {"_class_name": "SomebodysScheduler", "clip_sample": True}
    assert essence(other, defaults) == other


def test_a_latent_consistency_model_has_its_own() -> None:
    config = {**STABLE_DIFFUSION, "_class_name": LCM, "original_inference_steps": 50}
    own, other = known_loop(config, CONSISTENCY), known_loop(config)
    assert own is not None
    assert other is not None
    assert [solver.name for solver in own.solvers] == ["lcm"]


def test_what_was_made_once_is_kept_until_the_code_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDMOBILE_CACHE", str(tmp_path))
    kept_tables._kept.cache_clear()
    config = {**STABLE_DIFFUSION, "beta_end": 0.0119}
    made = loop_of(config)
    (file,) = (tmp_path / "schedulers").iterdir()
    assert known_loop(config) == made
    kept_tables._kept.cache_clear()
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, "diffusers": "0.1"}))
    assert known_loop(config) is None
    kept_tables._kept.cache_clear()
    file.write_text("{")
    assert known_loop(config) is None
    kept_tables._kept.cache_clear()
    file.write_text(json.dumps(document))
    monkeypatch.setattr(kept_tables, "code", lambda: "another")
    assert known_loop(config) is None
    kept_tables._kept.cache_clear()


@pytest.mark.parametrize("value", [{"a": {1, 2}}, [set()]])
def test_a_configuration_that_is_no_json_is_refused(value: object) -> None:
    with pytest.raises(CheckpointError, match="must be plain JSON"):
        loop_of({"_class_name": "SomebodysScheduler", "x": value})
