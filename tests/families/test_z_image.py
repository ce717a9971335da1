"""Z-Image-Turbo: pictures as Diffusers makes them, Qwen3 as Transformers has it, the loop as tables, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdmobile.checkpoints import Checkpoint, load_model, open_checkpoint
from sdmobile.checkpoints.tokenizers import load_tokenizer, token_ids
from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families import family_named, qwen3, single_stream
from sdmobile.families.qwen3_encoder import Qwen3TextEncoder
from sdmobile.families.z_image import TEXT_LENGTH
from sdmobile.reference.noise import NoiseStream
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.sampling import Sampler, SampleRequest, sample
from sdmobile.reference.torch_runner import TorchRunner
from tests.families.diffusers_latents import assert_same, diffusers_latents
from tests.families.tiny import z_image as tiny

Z_IMAGE = family_named("z-image")
PROMPT = "a small Red circle on white"
TEXTS = (PROMPT, "", "  two  spaces ", "Ünï ☃ <|im_start|>", " ".join(["a large blue square"] * 200))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("z-image") / "tiny")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Checkpoint:
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    from diffusers import ZImagePipeline

    return ZImagePipeline.from_pretrained(str(folder), torch_dtype=torch.float32)


@pytest.mark.parametrize(
    ("negative", "size", "scale", "guidance"),
    [("", (32, 32), 1.0, None), ("a green star", (64, 32), 3.5, "separate")],
    ids=["usual", "guided, with a negative text, not square"],
)
def test_latents_and_picture_are_those_of_diffusers(
    negative: str, size: tuple[int, int], scale: float, guidance: str | None, checkpoint: Checkpoint, pipeline: Any
) -> None:
    assert checkpoint.family is Z_IMAGE
    spec = PipelineSpec.from_checkpoint(checkpoint, guidance, size)
    ours = sample(TorchRunner(checkpoint, spec.geometry), spec, SampleRequest(PROMPT, negative, 3, 7, scale))
    # Diffusers' scale is added to 1; it takes 0 for none.
    theirs_scale = SampleRequest(PROMPT, negative, 3, 7, scale - 1)
    first = torch.from_numpy(NoiseStream(7, spec.latent_shape).draw())
    theirs = diffusers_latents(pipeline, theirs_scale, height=size[0], width=size[1], latents=first)
    assert_same(ours.latents, theirs)
    with torch.no_grad():
        unscaled = torch.from_numpy(theirs[-1]) / 0.3611 + 0.1159
        picture = pipeline.vae.decode(unscaled, return_dict=False)[0].numpy()
    np.testing.assert_allclose(ours.image, picture, atol=1e-4)


def test_an_app_samples_by_the_tables(checkpoint: Checkpoint) -> None:
    document = Z_IMAGE.scheduler_document(checkpoint.scheduler_config, checkpoint.scaling_factor, 0.1159)
    assert (document["prediction_type"], document["default_steps"]) == ("flow", 9)
    solver = document["solvers"][document["default_solver"]]
    spec = PipelineSpec.from_checkpoint(checkpoint, None, (32, 32))
    ours = sample(TorchRunner(checkpoint, spec.geometry), spec, SampleRequest(PROMPT, "", 4, 7, 1.0))
    sampler = Sampler(TorchRunner(checkpoint, spec.geometry), spec)
    ids = sampler.tokenize(PROMPT)
    count = int((ids != qwen3.PAD).sum())
    features = sampler.runner.run("text_encoder", {"input_ids": ids})["hidden_states"]
    moved, mask = np.zeros_like(features), np.zeros((1, TEXT_LENGTH), np.float32)
    start = TEXT_LENGTH - 32 * -(-count // 32)  # as `conditioning` of metadata.json says
    moved[0, start : start + count], mask[0, start : start + count] = features[0, :count], 1
    x = NoiseStream(7, spec.latent_shape).draw() * np.float32(solver["init_noise_sigma"])
    for row, wanted in zip(solver["steps"]["4"], ours.latents, strict=True):
        inputs = {"sample": x, "timestep": np.asarray([row["timestep"]], np.float32)}
        text = {"encoder_hidden_states": moved, single_stream.MASK: mask}
        velocity = sampler.runner.run("transformer", {**inputs, **text})["noise_pred"]
        clean = x - row["sigma"] * velocity
        x = (row["a"] * x + row["b"] * clean).astype(np.float32)
        np.testing.assert_allclose(x, wanted, atol=1e-4)


@pytest.mark.parametrize("text", TEXTS, ids=["usual", "empty", "spaces", "odd", "too long"])
def test_identifiers_and_features_are_those_of_the_pipeline(text: str, checkpoint: Checkpoint, pipeline: Any) -> None:
    wanted = pipeline._encode_prompt(text, device=torch.device("cpu"))[0]
    ids = token_ids(load_tokenizer(checkpoint), text, TEXT_LENGTH, Z_IMAGE.tokenizer_kind)
    module: Any = load_model(checkpoint, "text_encoder")
    with torch.no_grad():
        features = Qwen3TextEncoder(module, (2,), qwen3.PAD)(torch.tensor([ids]))
    torch.testing.assert_close(features[0, : len(wanted)], wanted, rtol=0, atol=1e-4)
    assert ids[len(wanted) :] == [qwen3.PAD] * (TEXT_LENGTH - len(wanted))


@pytest.mark.parametrize(
    ("part", "change", "error", "says"),
    [
        ("transformer", {"cap_feat_dim": 48}, CheckpointError, "transformer 48, text encoder 32"),
        ("transformer", {"in_channels": 4}, CheckpointError, "transformer 4; VAE 16"),
        ("transformer", {"axes_lens": [513, 16, 16]}, CheckpointError, "places for 512 tokens"),
        ("text_encoder", {"num_hidden_layers": 1}, UnsupportedError, "2 layers at least"),
        ("text_encoder", {"use_sliding_window": True}, UnsupportedError, "see a window"),
        ("text_encoder", {"hidden_act": "gelu"}, UnsupportedError, "another activation"),
        ("index", {"_class_name": "ZImageImg2ImgPipeline"}, UnsupportedError, "from texts alone"),
    ],
)
def test_models_that_do_not_fit_are_refused(
    part: str, change: dict[str, Any], error: type[Exception], says: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=says):
        open_checkpoint(tiny.write(tmp_path / "tiny", {part: {**(tiny.VAE if part == "vae" else {}), **change}}))


def test_sizes_are_multiples_of_so_many_cells(checkpoint: Checkpoint) -> None:
    with pytest.raises(UnsupportedError, match="multiple of 32"):
        PipelineSpec.from_checkpoint(checkpoint, None, (48, 32))
