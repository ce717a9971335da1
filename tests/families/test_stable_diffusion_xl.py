"""Stable Diffusion XL: pictures as Diffusers makes them, from a folder and from a single file, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from sdmobile.checkpoints import Changes, LoraFile, load_model, open_checkpoint
from sdmobile.checkpoints.embeddings import EmbeddingFile
from sdmobile.cli.app import app
from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families import family_named
from sdmobile.families.clip_pooled import end_token, with_second_padding
from sdmobile.reference.noise import NoiseStream
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.sampling import SampleRequest, sample
from sdmobile.reference.torch_runner import TorchRunner
from tests.checkpoints.ldm_layout import second_clip_to_ldm, vae_to_ldm, xl_unet_to_ldm
from tests.families.diffusers_latents import assert_same, diffusers_latents
from tests.families.tiny import stable_diffusion_xl as tiny
from tests.families.tiny.stable_diffusion_xl_few_steps import SCHEDULER as TURBO

XL, FEW = family_named("stable-diffusion-xl"), family_named("stable-diffusion-xl-few-steps")
# Attention in the second of two levels, of several layers, as the real one has it; numbers that a single file implies.
DEEP: dict[str, Any] = {
    **tiny.UNET,
    "block_out_channels": [32, 64],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2],
    "attention_head_dim": [1, 1],
    "norm_num_groups": 32,
    "cross_attention_dim": 64 + 128,
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 6 * 256 + 24,
}
CHANGES: dict[str, dict[str, Any]] = {
    "unet": DEEP,
    "text_encoder": {"hidden_size": 64, "num_attention_heads": 1, "projection_dim": 64},
    "vae": {"block_out_channels": [32, 64], "norm_num_groups": 32, "scaling_factor": 0.13025},
}
SECOND = {**tiny.SECOND, "hidden_size": 128, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("xl") / "tiny", changes=CHANGES, second=SECOND)


def pipeline_of(folder: Path) -> Any:
    from diffusers import StableDiffusionXLPipeline

    return StableDiffusionXLPipeline.from_pretrained(str(folder), torch_dtype=torch.float32)


@pytest.mark.parametrize(
    ("negative", "zeros", "size"),
    [("", True, (32, 32)), ("", False, (32, 32)), ("a green star", True, (48, 32))],
    ids=["no negative text", "an empty one that is encoded", "not square"],
)
def test_latents_are_those_of_diffusers(
    negative: str, zeros: bool, size: tuple[int, int], folder: Path, tmp_path: Path
) -> None:
    if not zeros:
        folder = shutil.copytree(folder, tmp_path / "encoded")
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({**index, "force_zeros_for_empty_prompt": False}))
    checkpoint = open_checkpoint(folder)
    assert (checkpoint.family, checkpoint.zeros_where_empty) == (XL, zeros)
    spec = PipelineSpec.from_checkpoint(checkpoint, resolution=size)
    request = SampleRequest("a small red circle on white", negative, 3, 7, 5.0)
    ours = sample(TorchRunner(checkpoint, spec.geometry), spec, request)

    first = torch.from_numpy(NoiseStream(7, spec.latent_shape).draw())
    pipeline = pipeline_of(folder)
    theirs = diffusers_latents(pipeline, request, height=size[0], width=size[1], latents=first)
    assert_same(ours.latents, theirs)
    with torch.no_grad():
        picture = pipeline.vae.decode(torch.from_numpy(theirs[-1]) / 0.13025, return_dict=False)[0].numpy()
    np.testing.assert_allclose(ours.image, picture, atol=1e-4)


@pytest.mark.parametrize("kind", ["turbo", "lightning", "lcm"])
def test_few_steps_take_one_row(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers

    schedulers = {
        "turbo": TURBO,
        "lightning": {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"},
        "lcm": {"_class_name": "LCMScheduler", "original_inference_steps": 50},
    }
    folder = tiny.write(tmp_path / "few", {"prediction_type": "epsilon", **schedulers[kind]})
    checkpoint = open_checkpoint(folder)
    assert checkpoint.family is FEW
    spec = PipelineSpec.from_checkpoint(checkpoint)
    request = SampleRequest("a small red circle on white", "", 4, 7, 0.0)
    ours = sample(TorchRunner(checkpoint, spec.geometry), spec, request)

    noise = NoiseStream(7, spec.latent_shape)
    first = torch.from_numpy(noise.draw())
    for room in ("lcm", "euler_ancestral_discrete"):  # fresh noise in a step is the documented stream's, not torch's
        module = f"diffusers.schedulers.scheduling_{room}"
        monkeypatch.setattr(f"{module}.randn_tensor", lambda *_, **__: torch.from_numpy(noise.draw()))
    pipeline = pipeline_of(folder)
    scheduler: Any = getattr(diffusers, schedulers[kind]["_class_name"])
    pipeline.scheduler = scheduler.from_pretrained(folder, subfolder="scheduler")
    theirs = diffusers_latents(pipeline, request, height=32, width=32, latents=first)
    assert_same(ours.latents, theirs)


def single_file(folder: Path, path: Path, metadata: dict[str, str] | None = None) -> Path:
    """Writes a Diffusers folder of Stable Diffusion XL in the original layout."""
    weights = {
        name: load_file(next((folder / name).glob("*.safetensors")))
        for name in ("unet", "vae", "text_encoder", "text_encoder_2")
    }
    first, second = (
        {key.removeprefix("text_model."): value for key, value in weights[name].items()}
        for name in ("text_encoder", "text_encoder_2")
    )
    tensors = xl_unet_to_ldm(weights["unet"], layers=1) | vae_to_ldm(weights["vae"], levels=2)
    tensors |= {f"conditioner.embedders.0.transformer.text_model.{name}": value for name, value in first.items()}
    tensors |= second_clip_to_ldm(second, layers=2)
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, path, metadata)
    shutil.copytree(folder / "tokenizer", path.parent / "tokenizer", dirs_exist_ok=True)
    return path


def test_a_single_file_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    file = single_file(folder, tmp_path / "merged.safetensors", {"modelspec.resolution": "32x32"})
    ours, theirs = open_checkpoint(file), open_checkpoint(folder)
    assert (ours.family, ours.image_size, ours.scaling_factor) == (XL, (32, 32), 0.13025)
    assert ours.components["unet"].config["transformer_layers_per_block"] == [1, 2]
    for name in theirs.components:
        mine, wanted = load_model(ours, name).state_dict(), load_model(theirs, name).state_dict()
        assert mine.keys() == wanted.keys()
        assert all(torch.equal(mine[key], value) for key, value in wanted.items())
    request = SampleRequest("a small red circle on white", "", 2, 3, 5.0)
    pictures = [sample(TorchRunner(one), PipelineSpec.from_checkpoint(one), request).image for one in (ours, theirs)]
    np.testing.assert_allclose(pictures[0], pictures[1], atol=1e-5)


def test_a_single_file_that_says_nothing_is_of_1024_pixels_by_euler(folder: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(single_file(folder, tmp_path / "merged.safetensors"))
    assert checkpoint.image_size == (1024, 1024)
    stated = {key: checkpoint.scheduler_config[key] for key in ("_class_name", "timestep_spacing", "prediction_type")}
    assert stated == {
        "_class_name": "EulerDiscreteScheduler",
        "timestep_spacing": "leading",
        "prediction_type": "epsilon",
    }
    assert any("1024 pixels assumed" in note for note in checkpoint.notes)


def test_a_lora_changes_both_text_encoders_as_diffusers_fuses_it(folder: Path, tmp_path: Path) -> None:
    """In kohya's names, whose UNet blocks are those of the original layout."""
    generator = torch.Generator().manual_seed(1)
    layers = {
        "lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q": (64, 64),
        "lora_unet_middle_block_1_transformer_blocks_0_ff_net_2": (64, 256),
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (64, 64),
        "lora_te1_text_model_encoder_layers_1_self_attn_out_proj": (64, 64),
        "lora_te2_text_model_encoder_layers_1_mlp_fc1": (64, 128),
        "lora_te2_text_model_encoder_layers_1_self_attn_out_proj": (128, 128),
    }
    tensors: dict[str, torch.Tensor] = {}
    for name, (rows, columns) in layers.items():
        tensors[f"{name}.lora_down.weight"] = 0.2 * torch.randn(2, columns, generator=generator)
        tensors[f"{name}.lora_up.weight"] = 0.2 * torch.randn(rows, 2, generator=generator)
        tensors[f"{name}.alpha"] = torch.tensor(1.0)
    file = tmp_path / "style.safetensors"
    save_file(tensors, file)
    wide = tiny.write(tmp_path / "wide", changes={**CHANGES, "unet": {**DEEP, "layers_per_block": 2}}, second=SECOND)
    checkpoint = open_checkpoint(wide, changes=Changes((LoraFile(file, 0.5),)))
    assert "2 of text_encoder_2 and 2 of text_encoder" in checkpoint.loras[0].note
    pipeline = pipeline_of(wide)
    pipeline.load_lora_weights(str(tmp_path), weight_name=file.name)
    pipeline.fuse_lora(lora_scale=0.5)
    pipeline.unload_lora_weights()
    plain, changed = open_checkpoint(wide), 0
    for name in ("unet", "text_encoder", "text_encoder_2"):
        before = load_model(plain, name).state_dict()
        wanted = {k.removeprefix("text_model."): v for k, v in getattr(pipeline, name).state_dict().items()}
        for key, value in load_model(checkpoint, name).state_dict().items():
            torch.testing.assert_close(value, wanted[key], rtol=1e-5, atol=1e-6)
            changed += not torch.equal(value, before[key])
    assert changed == len(layers)


def test_the_second_encoder_fills_up_with_its_own_token() -> None:
    ids = np.asarray([[8, 5, 9, 9, 9], [8, 5, 4, 4, 9]])
    assert with_second_padding(ids).tolist() == [[8, 5, 9, 0, 0], [8, 5, 4, 4, 9]]
    assert end_token({"eos_token_id": 2, "vocab_size": 50_000}) == 49407
    assert end_token({"eos_token_id": 2, "vocab_size": 600}) == end_token({"vocab_size": 600}) == 599
    for stated in (-1, 600, "x", None):
        with pytest.raises(CheckpointError, match="an identifier of its vocabulary, 0 to 599"):
            end_token({"eos_token_id": stated, "vocab_size": 600})


def test_an_app_is_told_how_the_inputs_are_made(folder: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(folder)
    facts = checkpoint.family.app_facts(checkpoint)["conditioning"]
    assert facts["empty_negative_text"].startswith("zeros")
    assert facts["text_encoder_2"]["pad_token_id"] == 0
    result = CliRunner().invoke(app, ["export", str(folder), "--target", "ios", "--dry-run", "--json"])
    assert result.exit_code == 0, result.output
    assert any("an empty negative text gives zeros" in line for line in json.loads(result.stdout)["warnings"])


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"requires_aesthetics_score": True}, UnsupportedError, "the refiner"),
        ({"text_encoder": [None, None]}, UnsupportedError, "has no text_encoder"),
    ],
)
def test_other_pipelines_are_refused_by_name(
    change: dict[str, Any], error: type[Exception], says: str, folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "other")
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps({**index, **change}))
    with pytest.raises(error, match=re.escape(says)):
        open_checkpoint(copy)


@pytest.mark.parametrize(
    ("model", "change", "says"),
    [
        ("text_encoder_2", {"projection_dim": 16}, "the UNet must take the second text encoder's pooled text"),
        ("unet", {"projection_class_embeddings_input_dim": 48}, "must be whole numbers that fit"),
        ("unet", {"cross_attention_dim": 64}, "must have the width of the text encoder"),
    ],
)
def test_models_that_do_not_fit_are_refused(model: str, change: dict[str, Any], says: str, tmp_path: Path) -> None:
    changes = {"unet": {**tiny.UNET, **change}} if model == "unet" else None
    second = {**tiny.SECOND, **change} if model == "text_encoder_2" else tiny.SECOND
    with pytest.raises(CheckpointError, match=says):
        open_checkpoint(tiny.write(tmp_path / "misfit", changes=changes, second=second))


def test_another_second_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "other")
    shutil.copytree(copy / "tokenizer", copy / "tokenizer_2", dirs_exist_ok=True)  # fills up with the end
    with pytest.raises(UnsupportedError, match="must fill texts up with the identifier 0"):
        PipelineSpec.from_checkpoint(open_checkpoint(copy))


def test_clip_skip_is_refused(folder: Path) -> None:
    with pytest.raises(UnsupportedError, match="--clip-skip goes with one text encoder"):
        open_checkpoint(folder, changes=Changes(clip_skip=1))


def test_a_learned_word_is_that_of_both_text_encoders(folder: Path, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(2)
    vectors = {"clip_l": torch.randn(2, 64, generator=generator), "clip_g": torch.randn(2, 128, generator=generator)}
    file = tmp_path / "toy.safetensors"
    save_file(vectors, file)
    checkpoint = open_checkpoint(folder, changes=Changes(embeddings=(EmbeddingFile(file, "<toy>"),)))
    spec = PipelineSpec.from_checkpoint(checkpoint)
    request = SampleRequest("a red <toy> on white", "<toy>", 2, 7, 5.0)
    ours = sample(TorchRunner(checkpoint, spec.geometry), spec, request)

    pipeline = pipeline_of(folder)
    for name, encoder, tokenizer in (
        ("clip_l", pipeline.text_encoder, pipeline.tokenizer),
        ("clip_g", pipeline.text_encoder_2, pipeline.tokenizer_2),
    ):
        pipeline.load_textual_inversion(vectors[name], "<toy>", text_encoder=encoder, tokenizer=tokenizer)
    first = torch.from_numpy(NoiseStream(7, spec.latent_shape).draw())
    assert_same(ours.latents, diffusers_latents(pipeline, request, height=32, width=32, latents=first))
    plain = sample(TorchRunner(open_checkpoint(folder)), PipelineSpec.from_checkpoint(open_checkpoint(folder)), request)
    assert np.abs(plain.latents[-1] - ours.latents[-1]).max() > 1e-2


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"clip_l": (2, 64)}, "with clip_g and clip_l: .* has clip_l"),
        ({"clip_l": (2, 64), "clip_g": (2, 64)}, "the width of the text encoder, 128"),
        ({"clip_l": (1, 64), "clip_g": (2, 128)}, "as many vectors for each text encoder"),
    ],
)
def test_a_word_that_does_not_fit_is_refused(
    tensors: dict[str, tuple[int, int]], says: str, folder: Path, tmp_path: Path
) -> None:
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, tmp_path / "toy.safetensors")
    with pytest.raises(CheckpointError, match=says):
        open_checkpoint(folder, changes=Changes(embeddings=(EmbeddingFile(tmp_path / "toy.safetensors"),)))


def test_the_row_that_ends_a_text_is_pooled_though_a_configuration_says_two(folder: Path, tmp_path: Path) -> None:
    """As the published checkpoint's says; Transformers would take the row of the largest identifier."""
    copy = shutil.copytree(folder, tmp_path / "two")
    for name in ("text_encoder", "text_encoder_2"):
        config = json.loads((copy / name / "config.json").read_text())
        (copy / name / "config.json").write_text(json.dumps({**config, "eos_token_id": 2}))
    request = SampleRequest("a small red circle on white", "", 1, 3, 5.0)
    opened = [open_checkpoint(one) for one in (copy, folder)]
    latents = [sample(TorchRunner(one), PipelineSpec.from_checkpoint(one), request).latents[-1] for one in opened]
    np.testing.assert_array_equal(latents[0], latents[1])
