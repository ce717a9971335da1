"""Stable Diffusion 3 and 3.5: pictures as Diffusers makes them without T5, the loop as tables, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from sdmobile.checkpoints import Changes, Checkpoint, LoraFile, load_model, open_checkpoint
from sdmobile.cli.app import app
from sdmobile.errors import CheckpointError, SdmobileError, UnsupportedError
from sdmobile.families import family_named, kept_tables
from sdmobile.families.edit import Edit, coloured_blocks
from sdmobile.families.flow_matching import check_flow, flow_scheduler
from sdmobile.reference.noise import NoiseStream
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.sampling import Sampler, SampleRequest, sample
from sdmobile.reference.torch_runner import TorchRunner
from tests.families.diffusers_latents import assert_same, diffusers_latents
from tests.families.tiny import stable_diffusion_3 as tiny

SD3 = family_named("stable-diffusion-3")
PROMPT = "a small red circle on white"
Folders = Callable[[str], Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Returns a function from "3" or "3.5" to a tiny checkpoint; each is written once."""
    transformers = {"3": tiny.TRANSFORMER, "3.5": tiny.MEDIUM}
    return cache(lambda kind: tiny.write(tmp_path_factory.mktemp("sd3") / "tiny", transformers[kind]))


def pipeline_of(folder: Path) -> Any:
    """Returns Diffusers' pipeline in float32, without T5 even where the folder names it."""
    from diffusers import StableDiffusion3Pipeline

    without = {"text_encoder_3": None, "tokenizer_3": None}
    return StableDiffusion3Pipeline.from_pretrained(str(folder), torch_dtype=torch.float32, **without)


def drawn(checkpoint: Checkpoint, request: SampleRequest, size: tuple[int, int] | None = None) -> tuple[Any, Any]:
    spec = PipelineSpec.from_checkpoint(checkpoint, resolution=size)
    return spec, sample(TorchRunner(checkpoint, spec.geometry), spec, request)


@pytest.mark.parametrize(
    ("kind", "negative", "size", "scale"),
    [
        ("3", "", (32, 32), 7.0),
        ("3.5", "a green star", (32, 32), 4.5),
        ("3", "", (48, 32), 7.0),
        ("3", "", (32, 32), 1.0),
    ],
    ids=["3", "3.5 with a negative text", "not square", "unguided"],
)
def test_latents_and_picture_are_those_of_diffusers(
    kind: str, negative: str, size: tuple[int, int], scale: float, folders: Folders
) -> None:
    folder = folders(kind)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.family is SD3
    request = SampleRequest(PROMPT, negative, 3, 7, scale)
    spec, ours = drawn(checkpoint, request, size)

    first = torch.from_numpy(NoiseStream(7, spec.latent_shape).draw())
    pipeline = pipeline_of(folder)
    theirs = diffusers_latents(pipeline, request, height=size[0], width=size[1], latents=first)
    assert_same(ours.latents, theirs)
    with torch.no_grad():
        unscaled = torch.from_numpy(theirs[-1]) / 1.5305 + 0.0609
        picture = pipeline.vae.decode(unscaled, return_dict=False)[0].numpy()
    np.testing.assert_allclose(ours.image, picture, atol=1e-4)


def test_a_picture_to_start_from_is_that_of_diffusers(folders: Folders) -> None:
    from diffusers import StableDiffusion3Img2ImgPipeline

    checkpoint = open_checkpoint(folders("3"))
    image = coloured_blocks(5, 32, 32)
    request = SampleRequest(PROMPT, "", 5, 7, 7.0, edit=Edit(image, strength=0.6))
    spec, ours = drawn(checkpoint, request)
    pipeline: Any = StableDiffusion3Img2ImgPipeline(**pipeline_of(folders("3")).components)
    noise = torch.from_numpy(NoiseStream(7, spec.latent_shape).draw())
    with torch.no_grad():
        mean = pipeline.vae.encode(torch.from_numpy(image)).latent_dist.mode()
    latent = (mean - 0.0609) * 1.5305
    pipeline.scheduler.set_timesteps(5)
    start = pipeline.scheduler.scale_noise(latent, pipeline.scheduler.timesteps[2:3], noise)
    pipeline.prepare_latents = lambda *_: start
    theirs = diffusers_latents(pipeline, request, image=torch.from_numpy(image), strength=0.6)
    assert_same(ours.latents, theirs)


def by_tables(
    checkpoint: Checkpoint, document: Mapping[str, Any], request: SampleRequest, spec: PipelineSpec
) -> list[np.ndarray]:
    """Samples as an app does: by the rows of a table, with the noise times its scale."""
    sampler = Sampler(TorchRunner(checkpoint, spec.geometry), spec)
    latents: list[np.ndarray] = []
    solver = document["solvers"][document["default_solver"]]
    x = NoiseStream(request.seed, spec.latent_shape).draw() * np.float32(solver["init_noise_sigma"])
    rows = [sampler.encode(request.negative), sampler.encode(request.prompt)]
    denoiser = SD3.denoiser
    for row in solver["steps"][str(request.steps)]:
        times = np.asarray([row["timestep"]], dtype=np.float32)
        without, with_text = (
            sampler.runner.run(denoiser.name, {"sample": x, "timestep": times, **text})["noise_pred"] for text in rows
        )
        prediction = without + np.float32(request.guidance_scale) * (with_text - without)
        clean = x - row["sigma"] * prediction
        x = (row["a"] * x + row["b"] * clean).astype(np.float32)
        latents.append(x)
    return latents


@pytest.mark.parametrize("kind", ["3", "3.5"])
def test_an_app_samples_by_the_tables(kind: str, folders: Folders) -> None:
    checkpoint = open_checkpoint(folders(kind))
    facts = (checkpoint.scheduler_config, checkpoint.scaling_factor, checkpoint.shift_factor)
    document = SD3.scheduler_document(*facts)
    assert (document["prediction_type"], document["clean_latent"]) == ("flow", "D = x - sigma * prediction")
    assert (document["decode"], document["shift_factor"]) == ("latent = x / scaling_factor + shift_factor", 0.0609)
    assert str(checkpoint.usual_steps) in document["solvers"]["flow-euler"]["steps"]
    request = SampleRequest(PROMPT, "", 4, 7, 5.0)
    spec = PipelineSpec.from_checkpoint(checkpoint, "separate")
    _, ours = drawn(checkpoint, request)
    assert_same(by_tables(checkpoint, document, request, spec), ours.latents)


def test_steps_and_guidance_are_those_of_the_model_cards(folders: Folders) -> None:
    usual = {kind: open_checkpoint(folders(kind)) for kind in ("3", "3.5")}
    stated = {kind: (one.usual_steps, one.usual_guidance_scale) for kind, one in usual.items()}
    assert stated == {"3": (28, 7.0), "3.5": (40, 4.5)}
    assert any("as 3.5 medium has" in note for note in usual["3.5"].notes)


def test_the_published_schedule_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Diffusers, and though the configuration of 3.5 says more."""
    monkeypatch.setitem(kept_tables.MAKERS, "flow", lambda _: pytest.fail("Diffusers was asked"))  # pyright: ignore
    more = {"base_shift": 0.5, "max_shift": 1.15, "use_dynamic_shifting": False, "_diffusers_version": "0.32.0"}
    loops = [kept_tables.loop_of({**tiny.SCHEDULER, **extra}, "flow") for extra in ({}, more)]
    assert loops[0] == loops[1]
    assert {28, 40} <= set(loops[0].lengths)


def test_t5_is_left_out_and_a_note_says_so(folders: Folders, tmp_path: Path) -> None:
    """Its folder is not read, not even looked for."""
    folder = shutil.copytree(folders("3"), tmp_path / "with")
    index = json.loads((folder / "model_index.json").read_text())
    named = {"text_encoder_3": ["transformers", "T5EncoderModel"], "tokenizer_3": ["transformers", "T5TokenizerFast"]}
    (folder / "model_index.json").write_text(json.dumps({**index, **named}))
    checkpoint = open_checkpoint(folder)
    assert "text_encoder_3" not in checkpoint.components
    assert any("T5 (text_encoder_3) is left out" in note for note in checkpoint.notes)


def test_an_app_is_told_how_the_inputs_are_made(folders: Folders) -> None:
    checkpoint = open_checkpoint(folders("3"))
    facts = checkpoint.family.app_facts(checkpoint)["conditioning"]
    assert "zeros from feature 80 on, and in rows 77 to 153" in facts["encoder_hidden_states"]
    spec = PipelineSpec.from_checkpoint(checkpoint)
    text = Sampler(TorchRunner(checkpoint, spec.geometry), spec).encode(PROMPT)
    context = text["encoder_hidden_states"]
    assert context.shape == (1, 154, 96)
    assert np.abs(context[:, :77, :80]).min(axis=-1).any()
    assert not context[:, 77:].any()
    assert not context[:, :, 80:].any()


def test_a_plan_for_an_iphone_tells_what_apples_package_does_otherwise(folders: Folders) -> None:
    arguments = ["export", str(folders("3")), "--target", "ios", "--dry-run", "--json"]
    plan = json.loads(CliRunner().invoke(app, arguments).stdout)
    files = [item["file"] for item in plan["components"]]
    assert files[2] == "MultiModalDiffusionTransformer.mlpackage"
    said = " ".join(plan["warnings"])
    for words in ("4 latent channels without a shift", "set 1.5305 and a shift of 0.0609", "context_dim 96"):
        assert words in said


@pytest.mark.parametrize(
    ("model", "change", "says"),
    [
        ("transformer", {"pooled_projection_dim": 40}, "must take the pooled rows of both text encoders"),
        ("transformer", {"joint_attention_dim": 64}, "must have room for those of both text encoders"),
        ("transformer", {"in_channels": 4, "out_channels": 4}, "must have the same latent channels"),
        ("transformer", {"sample_size": 32}, "within its position table"),
        ("vae", {"shift_factor": 1e999}, "shift_factor of the VAE must be a finite number"),
    ],
)
def test_models_that_do_not_fit_are_refused(model: str, change: dict[str, Any], says: str, tmp_path: Path) -> None:
    transformer = {**tiny.TRANSFORMER, **(change if model == "transformer" else {})}
    folder = tiny.write(tmp_path / "misfit", transformer)
    if model == "vae":  # which no network could be built of
        file = folder / "vae" / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), **change}), "utf-8")
    with pytest.raises(CheckpointError, match=says):
        open_checkpoint(folder)


def test_other_queries_and_keys_are_refused(folders: Folders, tmp_path: Path) -> None:
    folder = shutil.copytree(folders("3"), tmp_path / "other")
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "qk_norm": "layer_norm"}))
    with pytest.raises(UnsupportedError, match="qk_norm = layer_norm"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"use_dynamic_shifting": True}, UnsupportedError, "a shift by the size of the picture"),
        ({"stochastic_sampling": True}, UnsupportedError, "steps that draw noise"),
        ({"_class_name": "EulerDiscreteScheduler"}, UnsupportedError, "EulerDiscreteScheduler"),
        ({"prediction_type": "epsilon"}, UnsupportedError, "predicts a velocity"),
        ({"shift": -1.0}, CheckpointError, "shift of the scheduler"),
        ({"num_train_timesteps": 0}, CheckpointError, "num_train_timesteps"),
    ],
)
def test_other_schedules_are_refused(change: dict[str, Any], error: type[SdmobileError], says: str) -> None:
    with pytest.raises(error) as raised:
        check_flow({**tiny.SCHEDULER, **change})
    assert says in raised.value.message()


def test_other_samplers_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=re.escape("flow matching has samplers of its own")):
        flow_scheduler(tiny.SCHEDULER, "dpm++")


@pytest.mark.parametrize(("size", "says"), [((40, 32), "multiple of 4 pixels"), ((52, 32), "at most 48 pixels")])
def test_sizes_that_the_transformer_has_no_places_for_are_refused(
    size: tuple[int, int], says: str, folders: Folders
) -> None:
    checkpoint = open_checkpoint(folders("3"))
    with pytest.raises(UnsupportedError, match=says):
        PipelineSpec.from_checkpoint(checkpoint, resolution=(size[0] + 2 if size[0] == 40 else size[0], size[1]))


@pytest.mark.parametrize("names", ["Diffusers", "OneTrainer"])
def test_a_lora_of_the_transformer_is_fused_as_by_diffusers(names: str, folders: Folders, tmp_path: Path) -> None:
    """Of 3.5's two attentions, of a feed-forward layer, and of both text encoders."""
    generator = torch.Generator().manual_seed(1)
    layers = {
        "transformer.transformer_blocks.0.attn.to_q": (32, 32),
        "transformer.transformer_blocks.1.attn2.to_out.0": (32, 32),
        "transformer.transformer_blocks.2.attn.add_k_proj": (32, 32),
        "transformer.transformer_blocks.0.ff_context.net.0.proj": (128, 32),
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj": (32, 32),
        "text_encoder_2.text_model.encoder.layers.1.mlp.fc1": (64, 48),
    }
    short = {"transformer": "lora_transformer", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
    stored: dict[str, torch.Tensor] = {}
    theirs: dict[str, torch.Tensor] = {}
    for name, (rows, columns) in layers.items():
        down, up = (0.2 * torch.randn(*size, generator=generator) for size in ((2, columns), (rows, 2)))
        model, _, module = name.partition(".")
        ways = ("lora_A", "lora_B") if model == "transformer" else ("lora_linear_layer.down", "lora_linear_layer.up")
        theirs |= {f"{name}.{ways[0]}.weight": down, f"{name}.{ways[1]}.weight": up}
        base = f"{short[model]}_{module.replace('.', '_')}"
        stored |= {f"{base}.lora_down.weight": down, f"{base}.lora_up.weight": up, f"{base}.alpha": torch.tensor(2.0)}
    save_file(theirs, tmp_path / "theirs.safetensors")
    save_file(theirs if names == "Diffusers" else stored, tmp_path / "ours.safetensors")

    folder = folders("3.5")
    checkpoint = open_checkpoint(folder, changes=Changes((LoraFile(tmp_path / "ours.safetensors", 0.5),)))
    pipeline = pipeline_of(folder)
    pipeline.load_lora_weights(str(tmp_path), weight_name="theirs.safetensors")
    pipeline.fuse_lora(lora_scale=0.5, components=list(short))
    pipeline.unload_lora_weights()
    plain, changed = open_checkpoint(folder), 0
    for name in short:
        before = load_model(plain, name).state_dict()
        wanted = {key.removeprefix("text_model."): v for key, v in getattr(pipeline, name).state_dict().items()}
        for key, value in load_model(checkpoint, name).state_dict().items():
            torch.testing.assert_close(value, wanted[key], rtol=1e-5, atol=1e-6)
            changed += not torch.equal(value, before[key])
    assert changed == len(layers)
