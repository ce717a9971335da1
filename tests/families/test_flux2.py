"""FLUX.2's transformer and autoencoder as files have them, against Diffusers' own, and its schedule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_flux2 import Flux2PosEmbed, Flux2Transformer2DModel
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families.flow_matching import TOKENS, check_flow, even_flow_loop, flow_scheduler, size_shift
from sdmobile.families.flux2 import TRANSFORMER, check, picture_places, text_places, turns
from sdmobile.families.flux2_autoencoder import DECODER, ENCODER, MODEL
from sdmobile.families.flux2_transformer import Flux2Transformer
from tests.families.tiny.flux2_klein import SCHEDULER, VAE
from tests.families.tiny.flux2_klein import TRANSFORMER as CONFIG
from tests.synthetic import preset

LENGTH = 24


@pytest.fixture(scope="module")
def network() -> Any:
    torch.manual_seed(0)
    net: Any = Flux2Transformer2DModel(**CONFIG).eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.normal_(0, 0.2)
    return net


@pytest.fixture(scope="module")
def autoencoder() -> Any:
    torch.manual_seed(0)
    module: Any = MODEL.build({**preset("tiny")["vae"], **VAE})
    module.bn.running_mean.normal_()
    module.bn.running_var.uniform_(0.2, 3.0)
    return module.eval().requires_grad_(False)


def in_layout(x: torch.Tensor, channels_last: bool) -> torch.Tensor:
    return x.permute(0, 2, 3, 1) if channels_last else x


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("rows", "size"), [(1, (4, 4)), (2, (6, 3))])
def test_velocities_are_those_of_diffusers(rows: int, size: tuple[int, int], channels_last: bool, network: Any) -> None:
    torch.manual_seed(1)
    inputs = {
        "sample": torch.randn(rows, CONFIG["in_channels"], *size),
        "timestep": torch.full((rows,), 731.3),
        "encoder_hidden_states": torch.randn(rows, LENGTH, CONFIG["joint_attention_dim"]),
    }
    answer: Any = TRANSFORMER.reference(network, inputs)
    wanted = in_layout(answer, channels_last)
    given = {**inputs, "sample": in_layout(inputs["sample"], channels_last)}
    velocity = Flux2Transformer(network, channels_last)(*given.values())
    torch.testing.assert_close(velocity, wanted, rtol=1e-4, atol=1e-4)


def test_turns_are_those_of_diffusers() -> None:
    embedder = Flux2PosEmbed(2000, CONFIG["axes_dims_rope"])
    for places in (text_places(512), picture_places(64, 40)):
        wanted = embedder(torch.from_numpy(places))
        for ours, theirs in zip(turns(places, CONFIG["axes_dims_rope"], 2000), wanted, strict=True):
            np.testing.assert_array_max_ulp(ours, theirs.numpy(), 2)


@pytest.mark.parametrize("channels_last", [False, True])
def test_latents_are_packed_and_normalised_as_by_the_pipeline(channels_last: bool, autoencoder: Any) -> None:
    from diffusers import Flux2KleinPipeline

    torch.manual_seed(2)
    image, latent = torch.randn(1, 3, 24, 16), torch.randn(1, 32, 6, 4)
    deviation = torch.sqrt(autoencoder.bn.running_var.view(1, -1, 1, 1) + 1e-4)
    mean = autoencoder.bn.running_mean.view(1, -1, 1, 1)
    encoded = Flux2KleinPipeline._patchify_latents(autoencoder.encode(image).latent_dist.mode())
    decoded = autoencoder.decode(Flux2KleinPipeline._unpatchify_latents(latent * deviation + mean))[0]
    for part, given, wanted in (
        (ENCODER, {"image": image}, (encoded - mean) / deviation),
        (DECODER, {"latent": latent}, decoded),
    ):
        torch.testing.assert_close(part.reference(autoencoder, given), wanted, rtol=0, atol=1e-5)
        (value,) = given.values()
        ours = part.wrap(autoencoder, channels_last)(in_layout(value, channels_last))
        torch.testing.assert_close(ours, in_layout(wanted, channels_last), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("part", "size"), [(ENCODER, (3, 24, 16)), (DECODER, (32, 6, 4))])
def test_both_halves_run_on_arrays(part: Any, size: tuple[int, ...], autoencoder: Any) -> None:
    weights = {name: value.numpy() for name, value in autoencoder.state_dict().items()}
    runner = part.arrays({**preset("tiny")["vae"], **VAE}, weights)
    given = torch.randn(1, *size, generator=torch.Generator().manual_seed(3))
    _, ours = runner.observe({name: weights[name] for name in runner.weights}, given.numpy())
    wanted = part.reference(autoencoder, {part.inputs[0].name: given})
    np.testing.assert_allclose(ours, wanted.numpy(), atol=1e-4)


def test_shifts_are_those_of_diffusers() -> None:
    for tokens in (16, 1024, 4096, 4300, 4301, 16384):
        for steps in (1, 4, 9, 50, 200):
            assert size_shift(tokens, steps) == compute_empirical_mu(tokens, steps)


@pytest.mark.parametrize("tokens", [4, 1024, 4096, 9216])
def test_noise_levels_are_those_of_the_pipeline(tokens: int) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    config = {**SCHEDULER, TOKENS: tokens}
    theirs: Any = FlowMatchEulerDiscreteScheduler.from_config(SCHEDULER)
    tables = even_flow_loop(config).solvers[0].steps
    for steps in (1, 4, 9, 28, 50):
        ours = flow_scheduler(config, even=True)
        ours.set_timesteps(steps)
        mu = compute_empirical_mu(tokens, steps)
        theirs.set_timesteps(steps, sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
        assert torch.equal(ours.sigmas, theirs.sigmas)
        assert torch.equal(ours.timesteps, theirs.timesteps)
        assert [row["sigma"] for row in tables[str(steps)]] == ours.sigmas.tolist()[:-1]


def test_a_shift_by_the_size_needs_the_size() -> None:
    check_flow({**SCHEDULER, TOKENS: 16})
    with pytest.raises(UnsupportedError, match="use_dynamic_shifting: a shift by the size"):
        check_flow(SCHEDULER)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"guidance_embeds": True}, UnsupportedError, "guidance_embeds = True: a guidance scale as an input"),
        ({"patch_size": 2}, UnsupportedError, "packed already"),
        ({"in_channels": None}, UnsupportedError, "must say in_channels"),
        ({"axes_dims_rope": [8, 8]}, CheckpointError, "width of its 4 axes"),
        ({"axes_dims_rope": [4, 4, 4, 8]}, CheckpointError, "16 features"),
        ({"axes_dims_rope": [3, 5, 4, 4]}, CheckpointError, "which are even"),
    ],
)
def test_other_networks_are_refused(change: dict[str, Any], error: type[Exception], says: str) -> None:
    check(CONFIG)
    with pytest.raises(error, match=says):
        check({**CONFIG, **change})


def test_a_network_that_does_not_say_it_has_no_guidance_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="guidance_embeds = True"):
        check({key: value for key, value in CONFIG.items() if key != "guidance_embeds"})
