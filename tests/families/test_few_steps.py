"""Checkpoints distilled to few steps that do not say so: what the user says, and what a name is taken for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sdmobile.checkpoints import Changes, open_checkpoint
from sdmobile.checkpoints.lora import LoraFile
from sdmobile.cli.app import app
from sdmobile.errors import CheckpointError, UnsupportedError, UsageError
from sdmobile.families import family_named
from sdmobile.families.distilled import DistilledToFewSteps, FewStepStableDiffusion
from sdmobile.families.few_steps import DISTILLED, Distillation, few_steps, hinted
from sdmobile.families.schedulers import STABLE_DIFFUSION
from sdmobile.families.stable_diffusion import StableDiffusion
from sdmobile.formats.bundle.reading import open_bundle
from sdmobile.reference.noise import NoiseStream
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.resolve import resolve_reference
from sdmobile.reference.sampling import ComponentCall, SampleRequest, sample
from sdmobile.reference.torch_runner import TorchRunner
from tests.checkpoints.single import REGULAR, write_single
from tests.families.diffusers_latents import assert_same, diffusers_latents
from tests.families.tiny import write_tiny
from tests.families.tiny.stable_diffusion import FEW_BLOCKS
from tests.in_process import exports_in_this_process
from tests.synthetic import write_checkpoint

FEW = family_named("stable-diffusion-few-steps")
Write = Callable[[str], Path]
# As the model cards call Diffusers: scheduler, what is set on top of the base model's configuration, timesteps.
CARDS: dict[str, tuple[str, dict[str, Any], list[int] | None]] = {
    "lightning:4": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, None),
    "lightning:2": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, None),
    "lightning:1": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing", "prediction_type": "sample"}, None),
    "hyper:8": ("DDIMScheduler", {"timestep_spacing": "trailing"}, None),
    "hyper:1": ("TCDScheduler", {}, None),
    "dmd2:4": ("LCMScheduler", {}, [999, 749, 499, 249]),
    "dmd2:1": ("LCMScheduler", {}, [399]),
    "dmd2:8": ("LCMScheduler", {}, None),
    "turbo:1": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, None),
    "lcm:4": ("LCMScheduler", {}, None),
    "tcd:4": ("TCDScheduler", {}, None),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Diffusers folder with the scheduler of Stable Diffusion 1.5, which has `clip_sample` too."""
    base = {**STABLE_DIFFUSION, "clip_sample": False}
    changes = {**REGULAR, "unet": {**REGULAR["unet"], **FEW_BLOCKS}, "scheduler": base}
    return write_checkpoint(tmp_path_factory.mktemp("few") / "base", changes=changes)


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Returns a function from a name to a single file of that name, as merges are passed round."""
    place = tmp_path_factory.mktemp("files")
    base = write_checkpoint(place / "base", changes=REGULAR)
    shutil.copytree(base / "tokenizer", place / "tokenizer")
    whole = write_single(base, place / "plain.safetensors")

    def named(name: str) -> Path:
        path = place / f"{name}.safetensors"
        return path if path.exists() else Path(shutil.copyfile(whole, path))

    return named


def _opened(path: Path, distilled: str | None = None, **more: Any) -> Any:
    changes = Changes(distilled=None if distilled is None else Distillation.parse(distilled), **more)
    return open_checkpoint(path, changes=changes)


@pytest.mark.parametrize("kind", CARDS)
def test_latents_and_tables_are_those_of_diffusers_by_the_model_cards(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers

    checkpoint = _opened(folder, kind)
    assert checkpoint.family is FEW
    spec = PipelineSpec.from_checkpoint(checkpoint)
    steps = int(kind[-1])
    assert (spec.guidance.name, spec.steps, spec.guidance_scale <= 1) == ("none", steps, True)
    calls: list[ComponentCall] = []
    request = SampleRequest("a red circle", "", steps, 7, spec.guidance_scale)
    ours = sample(TorchRunner(checkpoint, spec.geometry), spec, request, calls.append).latents

    class_name, settings, timesteps = CARDS[kind]
    noise = NoiseStream(7, spec.latent_shape)
    first = torch.from_numpy(noise.draw())
    pipeline: Any = diffusers.StableDiffusionPipeline.from_pretrained(str(folder), torch_dtype=torch.float32)
    pipeline.scheduler = getattr(diffusers, class_name).from_config(pipeline.scheduler.config, **settings)
    given = {} if timesteps is None else {"timesteps": timesteps}
    with monkeypatch.context() as patch:
        for room in ("lcm", "tcd"):  # fresh noise in a step is the documented stream's, not torch's
            module = f"diffusers.schedulers.scheduling_{room}"
            patch.setattr(f"{module}.randn_tensor", lambda *_, **__: torch.from_numpy(noise.draw()))
        theirs = diffusers_latents(pipeline, request, height=32, width=32, latents=first, **given)
    assert len(theirs) == steps
    assert_same(ours, theirs)

    document = FEW.scheduler_document(checkpoint.scheduler_config, checkpoint.scaling_factor)
    assert document["default_steps"] == steps
    solver = document["solvers"][document["default_solver"]]
    rows = solver["steps"][str(steps)]
    assert timesteps is None or [row["timestep"] for row in rows] == timesteps
    drawn = NoiseStream(7, spec.latent_shape)
    x, before = drawn.draw() * solver["init_noise_sigma"], np.zeros(spec.latent_shape)
    predictions = [call.outputs["noise_pred"] for call in calls if call.component == "unet"]
    for index, (row, prediction) in enumerate(zip(rows, predictions, strict=True)):
        clean = prediction if kind == "lightning:1" else (x - row["sigma"] * prediction) / row["alpha"]
        fresh = drawn.draw() if row.get("n") else 0.0
        x, before = row["a"] * x + row["b"] * clean + row.get("c", 0.0) * before + row.get("n", 0.0) * fresh, clean
        scale = 1.0 if index + 1 == len(rows) else _taken(document, rows[index + 1], class_name)
        np.testing.assert_allclose(x, ours[index] * scale, atol=1e-3 * max(1.0, float(np.abs(ours[index]).max())))


def _taken(document: dict[str, Any], row: dict[str, float], class_name: str) -> float:
    """Returns what Euler's latent is multiplied by before the UNet takes it, which is the tables' x."""
    return row["alpha"] if class_name.startswith("Euler") else 1.0


@pytest.mark.parametrize("kind", ["dmd2:4", "lightning:1"])
def test_xl_is_sampled_by_the_same_cards(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers

    class_name, settings, timesteps = CARDS[kind]
    folder = write_tiny("stable-diffusion-xl", tmp_path / "tiny")
    checkpoint = _opened(folder, kind)
    assert checkpoint.family.name == "stable-diffusion-xl-few-steps"
    spec = PipelineSpec.from_checkpoint(checkpoint)
    request = SampleRequest("a red circle", "", spec.steps, 7, spec.guidance_scale)
    ours = sample(TorchRunner(checkpoint, spec.geometry), spec, request).latents
    noise = NoiseStream(7, spec.latent_shape)
    first = torch.from_numpy(noise.draw())
    pipeline: Any = diffusers.StableDiffusionXLPipeline.from_pretrained(str(folder), torch_dtype=torch.float32)
    pipeline.scheduler = getattr(diffusers, class_name).from_config(pipeline.scheduler.config, **settings)
    given = {} if timesteps is None else {"timesteps": timesteps}
    size = {"height": spec.geometry.image_height, "width": spec.geometry.image_width}
    with monkeypatch.context() as patch:
        patch.setattr(
            "diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *_, **__: torch.from_numpy(noise.draw())
        )
        theirs = diffusers_latents(pipeline, request, latents=first, **size, **given)
    assert_same(ours, theirs)
    named = _opened(Path(shutil.copytree(folder, tmp_path / "toon-xl-lightning")))
    assert "--distilled lightning:4" in str(named.undecided)


def test_published_steps_have_tables(folder: Path) -> None:
    for kind in ("lightning:4", "hyper:4", "dmd2:4", "turbo:1", "lcm:7"):
        config = _opened(folder, kind).scheduler_config
        document = FEW.scheduler_document(config, 0.18215)
        assert {"1", "2", "4", "8"} <= set(document["solvers"][document["default_solver"]]["steps"])
        assert str(document["default_steps"]) == kind[-1]


def test_a_single_file_is_what_the_user_says(write: Write) -> None:
    checkpoint = _opened(write("merge"), "dmd2:4")
    assert (checkpoint.family, checkpoint.steps, checkpoint.guidance_scale) == (FEW, 4, 0.0)
    assert checkpoint.scheduler_config[DISTILLED] == "dmd2:4"
    assert any("DMD2 (dmd2:4); 4 steps at a guidance scale of 0" in note for note in checkpoint.notes)
    one = _opened(write("merge"), "lightning:1")
    assert one.prediction_type == "sample"
    assert not any("epsilon assumed" in note for note in one.notes)
    eight = _opened(write("merge"), "dmd2:8")
    assert any("LCMScheduler's own timesteps" in note for note in eight.notes)
    assert _opened(write("merge_6steps"), "hyper").steps == 6
    assert _opened(write("merge"), "hyper").steps == 4
    assert _opened(write("merge_lightning_1step"), "hyper").steps == 4  # of another kind


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("toonLightning_v4", "lightning:4"),
        ("sd_lightning_2step", "lightning:2"),
        ("realisticVisionV60B1_v51HyperVAE", "hyper:4"),
        ("Hyper-SD15-8steps-merge", "hyper:8"),
        ("dreamshaper_8LCM", "lcm:4"),
        ("photon_lcm", "lcm:4"),
        ("sd_turbo", "turbo:1"),
        ("anything_dmd2", "dmd2:4"),
        ("merge_4step", "KIND:4"),
    ],
)
def test_a_name_that_says_few_steps_is_refused_until_it_is_said_how(name: str, told: str, write: Write) -> None:
    path = write(name)
    checkpoint = _opened(path)
    assert checkpoint.undecided is not None
    with pytest.raises(UsageError, match=rf"'{name}' looks like .*--distilled {told}, or --distilled none"):
        PipelineSpec.from_checkpoint(checkpoint)
    result = CliRunner().invoke(app, ["export", str(path), "--target", "android", "--dry-run"])
    assert isinstance(result.exception, UsageError)
    assert _opened(path, "none").undecided is None
    assert _opened(path, "none").family.name == "stable-diffusion"
    assert _opened(path, "lcm:4").undecided is None


def test_other_names_are_ordinary() -> None:
    for name in (
        "v1-5-pruned-emaonly",
        "epicHyperRealism",
        "hyper_realistic_v2",
        "hyperdetailed",
        "step_4000",
        "run-1000steps",
        "epoch-4-step-20000",
        "dreamshaper_8",
        "falcm",
        "tcdx",
        "",
    ):
        assert hinted([name]) is None, name
    assert hinted(["plain", "x-turbo-lightning_2-steps"]) == (Distillation("turbo", 2), "x-turbo-lightning_2-steps")


def test_a_title_in_the_metadata_counts_as_a_name(write: Write, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = tmp_path / "model.safetensors"
    save_file(load_file(write("merge")), path, {"modelspec.title": "Toon LCM 4 steps"})
    assert "'Toon LCM 4 steps' looks like LCM" in str(_opened(path).undecided)


def test_a_lora_that_distils_counts_as_a_name(folder: Path) -> None:
    checkpoint = _opened(folder)
    assert checkpoint.undecided is None
    lora = _lora("pytorch_lora_weights"), _lora("Hyper-SD15-2steps-lora")
    assert "'Hyper-SD15-2steps-lora' looks like Hyper-SD. Say it: --distilled hyper:2" in str(
        replace(checkpoint, loras=lora).undecided
    )


def _lora(name: str) -> Any:
    from sdmobile.checkpoints.lora import Lora

    return Lora(LoraFile(Path(f"{name}.safetensors")), ())


def _copy(folder: Path, place: Path, name: str, scheduler: dict[str, Any], card: str = "") -> Path:
    copied = Path(shutil.copytree(folder, place / name))
    (copied / "scheduler" / "scheduler_config.json").write_text(json.dumps({**STABLE_DIFFUSION, **scheduler}))
    if card:
        (copied / "README.md").write_text(f"---\ninference:\n  parameters:\n{card}---\n")
    return copied


def test_a_folder_with_a_name_is_decided_by_scheduler_and_card(folder: Path, tmp_path: Path) -> None:
    trailing = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}
    named = _opened(_copy(folder, tmp_path, "sd-lightning-4step", trailing))
    assert (str(named.given.distilled), named.steps, named.undecided) == ("lightning:4", 4, None)
    unclear = _opened(_copy(folder, tmp_path, "sd-lightning", trailing))
    assert "--distilled lightning:4" in str(unclear.undecided)  # Turbo's scheduler does not say how many steps
    ordinary = _copy(folder, tmp_path, "toon-lightning", {})
    assert _opened(ordinary).undecided is not None
    stated = "    guidance_scale: 2\n    num_inference_steps: 6\n"
    card = _opened(_copy(folder, tmp_path, "dream-lightning", {}, stated))
    assert (card.undecided, card.steps, card.guidance_scale, card.family.name) == (None, 6, 2.0, "stable-diffusion")
    said = _opened(tmp_path / "dream-lightning", "lightning:4")
    assert (said.steps, said.guidance_scale, said.family) == (4, 0.0, FEW)
    assert any("takes the place of what the model card says" in note for note in said.notes)
    turbo = _opened(_copy(folder, tmp_path, "sd-turbo", trailing))
    assert (turbo.undecided, turbo.steps, turbo.given.distilled) == (None, 1, None)


def test_the_samplers_own_settings_do_not_stay(folder: Path, tmp_path: Path) -> None:
    karras = {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True, "timestep_spacing": "leading"}
    base = _opened(_copy(folder, tmp_path, "karras", karras), "lightning:4").scheduler_config
    assert base == _opened(folder, "lightning:4").scheduler_config
    flow = _copy(folder, tmp_path, "flow", {"_class_name": "FlowMatchEulerDiscreteScheduler"})
    with pytest.raises(UnsupportedError, match="flow matching"):
        _opened(flow, "lightning:4")


def test_what_is_no_kind_is_refused(folder: Path, tmp_path: Path) -> None:
    for text in (
        "",
        "lightnin",
        "lightning:",
        "lightning:0",
        "lightning:9",
        "lightning:²",
        "none:4",
        "lcm:4:4",
        "x" * 99,
    ):
        with pytest.raises(UsageError):
            Distillation.parse(text)
    for stated in (4, None, "best", "lightning:99", ["lcm"]):
        with pytest.raises(CheckpointError, match=DISTILLED):
            few_steps({DISTILLED: stated})
    for family in ("latent-consistency", "mobile-diffusion"):
        with pytest.raises(UnsupportedError, match=r"its own way: --distilled turbo:1"):
            _opened(write_tiny(family, tmp_path / family), "turbo:1")


def test_another_familys_version_is_its_own() -> None:
    """A family with the same kind of UNet gets its version for few steps by naming itself."""
    ordinary = StableDiffusion()

    class Other(StableDiffusion):
        name = "other"

    class FewStepOther(DistilledToFewSteps, Other):
        name = "other-few-steps"
        base = Other

    config = Distillation.parse("lightning:4").schedule(STABLE_DIFFUSION)
    assert FewStepOther().claims_sampling(Other(), config, None)
    assert not FewStepOther().claims_sampling(ordinary, config, None)
    assert not FewStepStableDiffusion().claims_sampling(Other(), config, None)
    assert [way.name for way in FewStepOther().guidances] == ["none", "batch2", "separate"]


def test_a_bundle_says_it_and_is_compared_with_it(write: Write, tmp_path: Path) -> None:
    """Its parts are made by processes that must be told too, and its reference opens under the same name."""
    path, out = write("toonLightning_4step"), tmp_path / "bundle"
    command = ["export", str(path), "--target", "android", "--components", "text_encoder", "--no-cache", "-o", str(out)]
    with exports_in_this_process():
        result = CliRunner().invoke(app, [*command, "--distilled", "lightning", "--resolution", "32"])
    assert result.exit_code == 0, result.output
    bundle = open_bundle(out)
    assert bundle.source["given"]["distilled"] == "lightning:4"
    assert (bundle.pipeline["steps"], bundle.pipeline["guidance_scale"]) == (4, 0.0)
    assert json.loads((out / "scheduler.json").read_text())["default_steps"] == 4
    spec = PipelineSpec.from_bundle(bundle)
    assert (spec.guidance.name, spec.steps, spec.family) == ("none", 4, FEW)
    reference = resolve_reference(bundle, path)
    assert reference.undecided is None
    assert dict(reference.scheduler_config) == dict(spec.scheduler_config)
