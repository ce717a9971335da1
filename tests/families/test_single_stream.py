"""Z-Image's transformer as a file has it, against Diffusers' own forward pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_z_image import RopeEmbedder, ZImageTransformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families.single_stream import (
    BLOCK,
    MASK,
    TRANSFORMER,
    angles,
    check,
    picture_places,
    text_places,
    to_the_end,
)
from sdmobile.families.single_stream_transformer import ZImageTransformer

CONFIG: dict[str, Any] = {
    "in_channels": 4,
    "dim": 32,
    "n_layers": 2,
    "n_refiner_layers": 1,
    "n_heads": 2,
    "n_kv_heads": 2,
    "cap_feat_dim": 24,
    "axes_dims": [4, 6, 6],
    "axes_lens": [128, 16, 16],
}
LENGTH = 96


@pytest.fixture(scope="module")
def network() -> Any:
    torch.manual_seed(0)
    net: Any = ZImageTransformer2DModel(**CONFIG).eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.normal_(0, 0.2)
    return net


def given_text(tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns features and mask as the file takes them; behind the text, features have numbers too."""
    features = np.random.default_rng(seed).standard_normal((1, LENGTH, CONFIG["cap_feat_dim"]), np.float32)
    moved, mask = to_the_end(features, tokens)
    return torch.from_numpy(moved), torch.from_numpy(mask)


@pytest.mark.parametrize("size", [(16, 16), (32, 16)])
@pytest.mark.parametrize("tokens", [(1,), (31,), (32,), (33,), (96,), (5, 70)], ids=str)
def test_velocities_are_those_of_diffusers(tokens: tuple[int, ...], size: tuple[int, int], network: Any) -> None:
    """For texts of any length, also in rows of one batch, whose shorter sequence Diffusers masks."""
    torch.manual_seed(1)
    texts = [given_text(count, seed) for seed, count in enumerate(tokens)]
    inputs = {
        "sample": torch.randn(len(tokens), 4, *size),
        "timestep": torch.full((len(tokens),), 731.3),
        "encoder_hidden_states": torch.cat([features for features, _ in texts]),
        MASK: torch.cat([mask for _, mask in texts]),
    }
    wanted = TRANSFORMER.reference(network, inputs)
    for channels_last in (False, True):
        rows = dict(inputs)
        if channels_last:
            rows["sample"] = rows["sample"].permute(0, 2, 3, 1)
        velocity = ZImageTransformer(network, channels_last)(*rows.values())
        velocity = velocity.permute(0, 3, 1, 2) if channels_last else velocity
        torch.testing.assert_close(velocity, wanted, rtol=1e-4, atol=1e-4)


def test_what_lies_outside_of_a_text_changes_nothing(network: Any) -> None:
    features, mask = given_text(40, 0)
    inputs = (torch.randn(1, 4, 16, 16), torch.tensor([500.0]))
    file = ZImageTransformer(network, channels_last=False)
    changed = torch.where(mask[..., None] > 0, features, torch.full_like(features, 7.0))
    torch.testing.assert_close(file(*inputs, changed, mask), file(*inputs, features, mask), rtol=0, atol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, LENGTH), st.integers(1, 5))
def test_a_text_is_moved_by_whole_blocks(tokens: int, width: int) -> None:
    features = np.arange(LENGTH * width, dtype=np.float32).reshape(1, LENGTH, width) + 1
    moved, mask = to_the_end(features, tokens)
    where = np.flatnonzero(mask[0])
    assert len(where) == tokens
    assert where[0] % BLOCK == 0
    assert LENGTH - where[-1] <= BLOCK
    np.testing.assert_array_equal(moved[0, where], features[0, :tokens])
    assert not np.delete(moved[0], where, axis=0).any()


def test_angles_are_those_of_diffusers() -> None:
    embedder = RopeEmbedder(256.0, CONFIG["axes_dims"], CONFIG["axes_lens"])
    for places in (text_places(32), picture_places(6, 8, 32)):
        wanted = embedder(torch.from_numpy(places))
        cosines, sines = angles(places, CONFIG["axes_dims"], 256.0)
        np.testing.assert_allclose(cosines, wanted.real.numpy(), atol=1e-6)
        np.testing.assert_allclose(sines, wanted.imag.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"siglip_feat_dim": 16}, UnsupportedError, "siglip_feat_dim = 16: pictures as conditions"),
        ({"all_patch_size": (1, 2)}, UnsupportedError, "patches of other sizes"),
        ({"t_scale": 1.0}, UnsupportedError, "another scale of time"),
        ({"dim": None}, UnsupportedError, "must say dim"),
        ({"axes_dims": [4, 6]}, CheckpointError, "three whole numbers"),
        ({"axes_dims": [4, 5, 7]}, CheckpointError, "three whole numbers"),
        ({"n_heads": 3}, CheckpointError, "3 heads, 32 features"),
        ({"n_heads": True}, CheckpointError, "the width of its rotary positions"),
    ],
)
def test_other_networks_are_refused(change: dict[str, Any], error: type[Exception], says: str) -> None:
    check(CONFIG)
    with pytest.raises(error, match=says):
        check({**CONFIG, **change})
