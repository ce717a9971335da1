"""The autoencoder on arrays: the streams of Diffusers' module, and in each the value that PyTorch has."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmobile.checkpoints import load_model, open_checkpoint
from sdmobile.checkpoints.bundled import BUNDLED
from sdmobile.families.streams import observe
from sdmobile.reference.drawn_pictures import highlights
from tests.families.test_autoencoder_streams import HALVES, autoencoder
from tests.synthetic import SD15_VAE

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from sdmobile.families.component import Component

Array = np.ndarray


def arrays_of(model: nn.Module) -> dict[str, NDArray[np.float32]]:
    return {name: value.detach().numpy() for name, value in model.named_parameters()}


def both(model: Any, half: Component, inputs: Array) -> tuple[dict[str, float], Array]:
    """Runs a half by both ways; returns the output on arrays and how far each stream's value is from PyTorch's."""
    weights = arrays_of(model)
    network = half.arrays(dict(model.config), weights.keys())
    module = half.wrap(model, False).eval()
    assert network is not None
    assert network.streams == half.streams(module)
    assert set(network.weights) == {name for name, _ in module.named_parameters()}
    found, output = network.observe({name: weights[name] for name in network.weights}, inputs)
    expected, (right,) = observe(module, network.streams, [(torch.from_numpy(np.ascontiguousarray(inputs)),)])
    assert list(found) == list(expected)
    assert np.abs(output - right.numpy()).max() < 1e-4 * right.abs().max()
    return {name: abs(found[name] - expected[name]) / expected[name] for name in found}, output


def check(model: Any, pictures: Array, tolerance: float = 2e-5) -> None:
    differences, moments = both(model, HALVES["encoder"], pictures)
    latent = moments[:, : moments.shape[1] // 2]
    differences |= both(model, HALVES["decoder"], latent)[0]
    assert max(differences.values()) < tolerance


@given(
    widths=st.sampled_from([(8,), (8, 16), (16, 32, 16)]),
    layers=st.integers(1, 2),
    attention=st.booleans(),
    quant=st.booleans(),
    cells=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
@settings(max_examples=8, deadline=None)
def test_every_autoencoder_of_diffusers_has_its_values(
    widths: tuple[int, ...], layers: int, attention: bool, quant: bool, cells: tuple[int, int]
) -> None:
    model = autoencoder(widths, layers, attention, quant)
    rows, columns = (cell << (len(widths) - 1) for cell in cells)
    picture = highlights(max(rows, 2), max(columns, 2))
    check(model, np.concatenate([picture, -0.5 * picture]))


@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_autoencoders_have_their_values(name: str) -> None:
    check(load_model(open_checkpoint(Path(name)), "vae"), highlights(64, 64))


def test_an_autoencoder_of_stable_diffusions_size_has_its_values() -> None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    check(AutoencoderKL.from_config(SD15_VAE), highlights(64, 64))


def test_values_beyond_float32_are_infinite() -> None:
    model = autoencoder((8, 16), 1, True, True)
    weights = {name: value.copy() for name, value in arrays_of(model).items()}
    weights["decoder.conv_in.weight"] *= np.float32(1e38)
    network = HALVES["decoder"].arrays(dict(model.config), weights.keys())
    assert network is not None
    found, _ = network.observe(weights, np.full((1, 4, 8, 8), 1e3, np.float32))
    assert found["decoder.conv_in"] == math.inf
    assert found["decoder.up_blocks.1.resnets.0.conv1"] == math.inf


def test_nothing_is_run_as_what_it_is_not() -> None:
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    tiny: Any = AutoencoderTiny(encoder_block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8))
    model = autoencoder((8, 16), 1, True, True)
    names = set(arrays_of(model))
    for half in HALVES.values():
        assert half.arrays(dict(model.config), names) is not None
        assert half.arrays(dict(tiny.config), arrays_of(tiny).keys()) is None
        assert half.arrays({**model.config, "act_fn": "mish"}, names) is None
    decoder = HALVES["decoder"].arrays
    assert decoder(dict(model.config), names - {"decoder.mid_block.resnets.0.norm2.bias"}) is None
    assert decoder(dict(model.config), names | {"decoder.mid_block.resnets.0.time_emb_proj.weight"}) is None
