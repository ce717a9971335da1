"""FLUX.2 [klein]: pictures as Diffusers makes them, distilled and guided, the loop as tables, refusals."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from sdmobile.checkpoints import Checkpoint, load_model, open_checkpoint
from sdmobile.checkpoints.tokenizers import load_tokenizer, token_ids
from sdmobile.errors import CheckpointError, UnsupportedError, UsageError
from sdmobile.families import family_named, qwen3
from sdmobile.families.contracts import contract_for
from sdmobile.families.flow_matching import TOKENS
from sdmobile.families.flux2_klein import LAYERS, TEXT_LENGTH
from sdmobile.families.qwen3_encoder import Qwen3TextEncoder
from sdmobile.reference.geometry import geometry_for
from sdmobile.reference.noise import NoiseStream
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.sampling import Sampler, SampleRequest, sample
from sdmobile.reference.torch_runner import TorchRunner
from sdmobile.validate.app_files.tables import table_findings
from sdmobile.validate.page_picture import why_no_picture
from tests.families.diffusers_latents import assert_same, diffusers_latents
from tests.families.tiny import flux2_klein as tiny
from tests.families.tiny import flux2_klein_base as tiny_base

FAMILY = family_named("flux2-klein")
PROMPT = "a small Red circle on white"
TEXTS = ("", "  two  spaces, Ünï ☃ <|im_start|>", " ".join(["a large blue square"] * 200))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("flux2")
    return {"flux2-klein": tiny.write(root / "tiny"), "flux2-klein-base": tiny_base.write(root / "base")}


@pytest.fixture(scope="module")
def checkpoints(folders: dict[str, Path]) -> dict[str, Checkpoint]:
    return {name: open_checkpoint(folder) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def pipelines(folders: dict[str, Path]) -> dict[str, Any]:
    from diffusers import Flux2KleinPipeline

    read = Flux2KleinPipeline.from_pretrained
    return {name: read(str(folder), torch_dtype=torch.float32) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def checkpoint(checkpoints: dict[str, Checkpoint]) -> Checkpoint:
    return checkpoints["flux2-klein"]


@pytest.fixture(scope="module")
def pipeline(pipelines: dict[str, Any]) -> Any:
    return pipelines["flux2-klein"]


@pytest.mark.parametrize(
    ("family", "size", "scale", "guidance"),
    [
        ("flux2-klein", (16, 16), 1.0, None),
        ("flux2-klein", (20, 12), 1.0, "none"),
        ("flux2-klein-base", (16, 16), 4.0, None),
        ("flux2-klein-base", (12, 20), 3.5, "separate"),
    ],
)
def test_latents_and_picture_are_those_of_diffusers(
    family: str,
    size: tuple[int, int],
    scale: float,
    guidance: str | None,
    checkpoints: dict[str, Checkpoint],
    pipelines: dict[str, Any],
) -> None:
    checkpoint, pipeline = checkpoints[family], pipelines[family]
    assert checkpoint.family is family_named(family)
    spec = PipelineSpec.from_checkpoint(checkpoint, guidance, size)
    request = SampleRequest(PROMPT, "", 2, 7, scale)
    ours = sample(TorchRunner(checkpoint, spec.geometry), spec, request)
    first = torch.from_numpy(NoiseStream(7, spec.latent_shape).draw())
    given = {"height": size[0], "width": size[1], "latents": first}
    theirs = diffusers_latents(pipeline, request, **given)
    assert_same(ours.latents, [one.transpose(0, 2, 1).reshape(spec.latent_shape) for one in theirs])
    picture = pipeline(
        prompt=PROMPT, num_inference_steps=2, guidance_scale=scale, output_type="pt", return_dict=False, **given
    )[0]
    np.testing.assert_allclose(np.clip(ours.image / 2 + 0.5, 0, 1), picture.numpy(), atol=1e-4)


def test_usual_sampling(checkpoints: dict[str, Checkpoint], checkpoint: Checkpoint) -> None:
    base = checkpoints["flux2-klein-base"]
    assert not checkpoint.notes
    usual = [(one.usual_steps, one.usual_guidance_scale, one.image_size) for one in (checkpoint, base)]
    assert usual == [(4, 1.0, (32, 32)), (50, 4.0, (32, 32))]
    assert [PipelineSpec.from_checkpoint(one).guidance.name for one in (checkpoint, base)] == ["none", "batch2"]
    with pytest.raises(UsageError, match="guidance was distilled"):
        PipelineSpec.from_checkpoint(checkpoint).check_asked(4.0)


def test_a_schedule_is_that_of_the_picture(checkpoint: Checkpoint) -> None:
    small, large = (PipelineSpec.from_checkpoint(checkpoint, None, side) for side in (16, 1024))
    assert (small.scheduler_config[TOKENS], large.scheduler_config[TOKENS]) == (16, 65536)
    assert small.sized(large.geometry).scheduler_config == large.scheduler_config
    first, second = (FAMILY.scheduler(one.scheduler_config, None, 4).sigmas[1] for one in (small, large))
    assert first != second


def test_validate_tells_the_tables_of_another_size(checkpoint: Checkpoint) -> None:
    own, other = (PipelineSpec.from_checkpoint(checkpoint, None, side) for side in (16, 64))
    document, bundle = FAMILY.scheduler_document(own.scheduler_config, 1.0), cast("Any", None)
    found, numbers = table_findings(document, bundle, checkpoint, own)
    assert not found
    assert numbers["tables"] == len(document["solvers"]["flow-euler"]["steps"])
    assert "its timesteps" in " ".join(table_findings(document, bundle, checkpoint, other)[0])


def test_an_app_samples_by_the_tables(checkpoint: Checkpoint) -> None:
    spec = PipelineSpec.from_checkpoint(checkpoint, None, (16, 16))
    document = FAMILY.scheduler_document(spec.scheduler_config, checkpoint.scaling_factor)
    assert (document["prediction_type"], document["default_steps"]) == ("flow", 4)
    assert (document["scaling_factor"], document["decode"]) == (1.0, "latent = x / scaling_factor")
    solver = document["solvers"][document["default_solver"]]
    sampler = Sampler(TorchRunner(checkpoint, spec.geometry), spec)
    ours = sample(sampler.runner, spec, SampleRequest(PROMPT, "", 4, 7, 1.0))
    features = sampler.runner.run("text_encoder", {"input_ids": sampler.tokenize(PROMPT)})["hidden_states"]
    x = NoiseStream(7, spec.latent_shape).draw() * np.float32(solver["init_noise_sigma"])
    for row, wanted in zip(solver["steps"]["4"], ours.latents, strict=True):
        inputs = {"sample": x, "timestep": np.asarray([row["timestep"]], np.float32)}
        velocity = sampler.runner.run("transformer", {**inputs, "encoder_hidden_states": features})["noise_pred"]
        clean = x - row["sigma"] * velocity
        x = (row["a"] * x + row["b"] * clean).astype(np.float32)
        np.testing.assert_allclose(x, wanted, atol=1e-4)


@pytest.mark.parametrize("text", TEXTS, ids=["empty", "odd", "too long"])
def test_identifiers_and_features_are_those_of_the_pipeline(text: str, checkpoint: Checkpoint, pipeline: Any) -> None:
    wanted = pipeline.encode_prompt(text, device=torch.device("cpu"))[0]
    ids = token_ids(load_tokenizer(checkpoint), text, TEXT_LENGTH, FAMILY.tokenizer_kind)
    module: Any = load_model(checkpoint, "text_encoder")
    with torch.no_grad():
        features = Qwen3TextEncoder(module, LAYERS, qwen3.PAD)(torch.tensor([ids]))
    torch.testing.assert_close(features, wanted, rtol=0, atol=1e-4)


def test_the_page_says_why_it_draws_no_picture(checkpoint: Checkpoint) -> None:
    geometry = geometry_for(checkpoint, None)
    components = {
        name: SimpleNamespace(contract=contract_for(FAMILY, "android", name, geometry)) for name in FAMILY.names
    }
    bundle: Any = SimpleNamespace(manifest={"family": FAMILY.name}, components=components, files={})
    assert "a tokenizer (byte-pair encoding of bytes, of Qwen)" in str(why_no_picture(bundle))


def test_a_picture_becomes_the_pipelines_latent(checkpoint: Checkpoint, pipeline: Any) -> None:
    geometry = geometry_for(checkpoint, None, (16, 24))
    image = torch.randn(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    wanted = pipeline._encode_vae_image(image, None).detach()
    ours = FAMILY.encode_image(image.numpy(), TorchRunner(checkpoint, geometry).run)
    np.testing.assert_allclose(ours, wanted.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("part", "change", "error", "says"),
    [
        ("transformer", {"joint_attention_dim": 32}, CheckpointError, "transformer 32, text encoder 16"),
        ("transformer", {"in_channels": 16}, CheckpointError, "transformer 16 in, 16 out; VAE 8"),
        ("transformer", {"out_channels": 8}, CheckpointError, "32 in, 8 out"),
        ("transformer", {"guidance_embeds": True}, UnsupportedError, "guidance scale as an input"),
        ("vae", {"sample_size": 30}, CheckpointError, "multiple of 4 pixels"),
        ("text_encoder", {"num_hidden_layers": 26}, UnsupportedError, "27 layers at least"),
        ("scheduler", {"stochastic_sampling": True}, UnsupportedError, "steps that draw noise"),
        ("index", {"_class_name": "Flux2KleinInpaintPipeline"}, UnsupportedError, "from texts alone"),
        ("index", {"_class_name": "Flux2KleinKVPipeline"}, UnsupportedError, "from texts alone"),
        ("index", {"_class_name": "Flux2Pipeline", "is_distilled": False}, UnsupportedError, "with Qwen3"),
    ],
)
def test_models_that_do_not_fit_are_refused(
    part: str, change: dict[str, Any], error: type[Exception], says: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=says):
        open_checkpoint(tiny.write(tmp_path / "tiny", {part: change}))
