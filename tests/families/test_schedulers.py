"""Samplers set up as Diffusers' own pipeline sets them up, whatever a checkpoint's configuration says or lacks."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdmobile.checkpoints import open_checkpoint
from sdmobile.errors import CheckpointError, UnsupportedError, UsageError
from sdmobile.families.few_steps import few_steps
from sdmobile.families.sampler_tables import solvers_of
from sdmobile.families.schedulers import SCHEDULERS, STABLE_DIFFUSION, scheduler_from_config
from sdmobile.reference.noise import NoiseStream
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.sampling import SampleRequest, sample
from sdmobile.reference.torch_runner import TorchRunner
from tests.families import SD

BETAS = {key: STABLE_DIFFUSION[key] for key in ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps")}
Edit = Callable[..., Path]


@pytest.fixture(scope="module")
def edited(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Edit:
    """Returns a function that links the tiny checkpoint with another scheduler configuration."""

    def edit(**config: Any) -> Path:
        folder = tmp_path_factory.mktemp("edited") / "tiny"
        shutil.copytree(tiny_checkpoint, folder)
        (folder / "scheduler/scheduler_config.json").write_text(json.dumps(config))
        return folder

    return edit


def picture(folder: Path, scheduler: str | None, steps: int = 3, **given: Any) -> np.ndarray:
    """Returns our picture in 8 bits, [H, W, 3]."""
    checkpoint = open_checkpoint(folder, **given)
    spec = PipelineSpec.from_checkpoint(checkpoint)
    request = SampleRequest("a red circle", "", steps, 7, 6.0, scheduler)
    image = sample(TorchRunner(checkpoint, spec.geometry), spec, request).image[0].transpose(1, 2, 0)
    return np.round(np.clip(image / 2 + 0.5, 0, 1) * 255).astype(int)


def diffusers_picture(folder: Path, class_name: str | None, steps: int = 3, **config: Any) -> np.ndarray:
    """Returns the picture of Diffusers' pipeline from the same latent, in 8 bits; it gets its scheduler when made."""
    import diffusers

    stored = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    cls = getattr(diffusers, class_name or stored["_class_name"])
    scheduler = cls.from_config({**stored, **config})
    pipeline: Any = diffusers.StableDiffusionPipeline.from_pretrained(
        str(folder), torch_dtype=torch.float32, scheduler=scheduler, low_cpu_mem_usage=False
    )
    pipeline.set_progress_bar_config(disable=True)
    latent = torch.from_numpy(NoiseStream(7, (1, 4, 16, 16)).draw())
    result = pipeline("a red circle", num_inference_steps=steps, guidance_scale=6.0, latents=latent, output_type="np")
    return np.round(result.images[0] * 255).astype(int)


@pytest.mark.parametrize("scheduler", ["ddim", "pndm", "dpm++", "euler"])
def test_a_picture_is_that_of_diffusers_where_the_configuration_is_silent(edited: Edit, scheduler: str) -> None:
    folder = edited(_class_name="PNDMScheduler", **BETAS, prediction_type="epsilon", set_alpha_to_one=False)
    expected = diffusers_picture(folder, SCHEDULERS[scheduler][0], **SCHEDULERS[scheduler][1])
    assert np.abs(picture(folder, scheduler) - expected).max() <= 1


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("stated", [{}, {"clip_sample": True, "steps_offset": 0}], ids=["silent", "wrong"])
def test_schedulers_have_the_settings_of_the_pipeline(name: str, stated: dict[str, Any]) -> None:
    import diffusers

    ours = scheduler_from_config({**BETAS, **stated, "_use_default_values": ["steps_offset"]}, name)
    class_name, overrides = SCHEDULERS[name]
    theirs = getattr(diffusers, class_name).from_config({**BETAS, **stated, **overrides})
    nothing: Any = None
    pipeline: Any = diffusers.StableDiffusionPipeline(
        *[nothing] * 4,
        scheduler=theirs,
        safety_checker=nothing,
        feature_extractor=nothing,
        requires_safety_checker=False,
    )
    settings = dict(pipeline.scheduler.config)
    for key in inspect.signature(type(ours).__init__).parameters.keys() - {"self"}:
        assert ours.config[key] == settings[key], key


@pytest.mark.parametrize("steps", [2, 4])
def test_a_v_prediction_is_sampled_as_one_when_it_is_said(edited: Edit, steps: int) -> None:
    folder = edited(_class_name="DDIMScheduler", **BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    ours = picture(folder, None, steps, prediction_type="v_prediction")
    theirs = diffusers_picture(folder, None, steps, prediction_type="v_prediction")
    assert np.abs(ours - theirs).max() <= 1
    assert np.abs(ours - picture(folder, None, steps)).max() > 1
    notes = open_checkpoint(folder).notes
    assert any("epsilon assumed" in note and "--prediction-type" in note for note in notes)


def test_a_prediction_that_is_none_is_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="one of epsilon, v_prediction, sample: velocity"):
        open_checkpoint(tiny_checkpoint, prediction_type="velocity")


@pytest.mark.parametrize(
    "config", [{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, {**BETAS, "use_flow_sigmas": True}]
)
def test_flow_matching_is_refused(edited: Edit, config: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match="flow matching"):
        open_checkpoint(edited(**config))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_train_timesteps", 10**9),
        ("num_train_timesteps", 0),
        ("num_train_timesteps", "many"),
        ("beta_start", float("nan")),
        ("beta_end", -1),
        ("trained_betas", [0.1]),
    ],
)
def test_numbers_that_no_schedule_has_are_refused(edited: Edit, key: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=key):
        open_checkpoint(edited(**{**STABLE_DIFFUSION, key: value}))


DISTILLED = {
    "lcm": ({"_class_name": "LCMScheduler", "original_inference_steps": 50}, 4, 1.0, "lcm"),
    "turbo": ({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}, 1, 0.0, "euler"),
}


@pytest.mark.parametrize("kind", DISTILLED)
def test_few_steps_are_the_checkpoints_own(edited: Edit, kind: str) -> None:
    config, steps, scale, solver = DISTILLED[kind]
    checkpoint = open_checkpoint(edited(**BETAS, **config, prediction_type="epsilon"))
    assert (checkpoint.usual_steps, checkpoint.usual_guidance_scale) == (steps, scale)
    assert any("few steps without guidance" in note for note in checkpoint.notes)
    spec = PipelineSpec.from_checkpoint(checkpoint)
    assert (spec.steps, spec.guidance_scale) == (steps, scale)
    document = SD.scheduler_document(checkpoint.scheduler_config, 0.18215)
    assert (document["default_solver"], document["default_steps"]) == (solver, steps)
    assert {"1", "2", "3", "4"} <= set(document["solvers"][solver]["steps"])


def test_the_model_card_has_the_last_word(edited: Edit) -> None:
    folder = edited(**BETAS, **DISTILLED["turbo"][0], prediction_type="epsilon")
    card = "---\ninference:\n  parameters:\n    guidance_scale: 0\n    num_inference_steps: 2\n---\n"
    (folder / "README.md").write_text(card)
    checkpoint = open_checkpoint(folder)
    assert (checkpoint.usual_steps, checkpoint.usual_guidance_scale) == (2, 0.0)


def test_an_ordinary_schedule_is_not_distilled() -> None:
    assert few_steps(STABLE_DIFFUSION) is None
    assert few_steps({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}) is None
    zero = {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    assert few_steps({"_class_name": "EulerDiscreteScheduler", **zero}) is None


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_guidance_scale_that_is_no_number_is_refused(scale: float) -> None:
    with pytest.raises(UsageError, match="finite"):
        SampleRequest("x", guidance_scale=scale)


DPM = {"_class_name": "DPMSolverMultistepScheduler"}
TABLED: list[tuple[dict[str, Any], str, bool]] = [
    ({**DPM, "use_karras_sigmas": True}, "dpm++", False),
    ({**DPM, "use_exponential_sigmas": True}, "dpm++", False),
    ({**DPM, "use_beta_sigmas": True}, "dpm++", False),
    ({**DPM, "solver_order": 3}, "dpm++", False),
    ({"_class_name": "UniPCMultistepScheduler"}, "unipc", False),
    ({"_class_name": "HeunDiscreteScheduler"}, "heun", False),
    ({"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True}, "euler", False),
    ({**DPM, "algorithm_type": "sde-dpmsolver++"}, "dpm++", True),
    ({**DPM, "thresholding": True}, "dpm++", True),
    ({"_class_name": "PNDMScheduler"}, "dpm++", True),
]


@pytest.mark.parametrize(("config", "solver", "stands_in"), TABLED, ids=lambda value: str(value)[-40:])
def test_what_is_deterministic_gets_tables_and_the_rest_a_stand_in(
    config: dict[str, Any], solver: str, stands_in: bool
) -> None:
    """The default table, run as an app runs it, gives the latent of Diffusers' scheduler with the same settings."""
    settings = {**BETAS, **config, "prediction_type": "epsilon"}
    solvers, note = solvers_of(settings)
    assert solvers[0].name == solver
    assert (note is not None) is stands_in
    default = solvers[0]
    for steps in (4, 10):
        scheduler = scheduler_from_config(settings, default.class_name, **default.settings)
        scheduler.set_timesteps(steps)
        noise = torch.from_numpy(np.random.RandomState(1).standard_normal((1, 1, 4, 4)))
        latent = noise * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            prediction = _network(scheduler.scale_model_input(latent, timestep), float(timestep))
            latent = scheduler.step(prediction, timestep, latent, return_dict=False)[0]
        app = _app(default.steps[str(steps)], noise * default.init_noise_sigma)
        np.testing.assert_allclose(app.numpy(), latent.numpy(), rtol=2e-4, atol=2e-4)


def _network(x: torch.Tensor, timestep: float) -> torch.Tensor:
    return torch.tanh(1.3 * x) + timestep / 1e4


def _app(rows: list[dict[str, float]], x: torch.Tensor) -> torch.Tensor:
    """The loop of a phone app: nothing but the table and its formulas."""
    past: list[torch.Tensor] = []
    for row in rows:
        past.insert(0, (x - row["sigma"] * _network(x, row["timestep"])) / row["alpha"])
        x = row["a"] * x + sum(row.get(name, 0.0) * clean for name, clean in zip("bcd", past, strict=False))
    return x
