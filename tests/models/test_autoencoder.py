"""The autoencoder with a thin decoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from sdmobile.models.autoencoder import MobileAutoencoderKL
from sdmobile.models.configurations import DECODER

_SIZES = {"latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 4}
WIDE: dict[str, Any] = {**_SIZES, "block_out_channels": (8, 16)}


def test_parameters_of_the_full_size_decoder() -> None:
    with torch.device("meta"):
        vae: Any = MobileAutoencoderKL(**DECODER)
    parts = (vae.decoder, vae.post_quant_conv)
    assert sum(p.numel() for part in parts for p in part.parameters()) == 9_770_699  # the paper says 9.8 M


def test_as_wide_as_the_encoder_it_is_diffusers() -> None:
    torch.manual_seed(0)
    kinds: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }
    theirs: Any = AutoencoderKL(**WIDE, **kinds).eval()
    ours: Any = MobileAutoencoderKL(
        **WIDE, decoder_block_out_channels=(8, 16), decoder_layers_per_block=2, decoder_mid_block="attention"
    ).eval()
    ours.load_state_dict(theirs.state_dict())
    image, latent = torch.randn(1, 3, 16, 16), torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        assert torch.equal(ours.decode(latent).sample, theirs.decode(latent).sample)
        assert torch.equal(ours.encode(image).latent_dist.parameters, theirs.encode(image).latent_dist.parameters)


@pytest.mark.parametrize("middle", [None, "resnets", "attention"])
def test_the_middle_is_what_is_asked_for(middle: str | None) -> None:
    vae: Any = MobileAutoencoderKL(
        **WIDE, decoder_block_out_channels=(4, 8), decoder_layers_per_block=1, decoder_mid_block=middle
    )
    names = [name for name in vae.state_dict() if name.startswith("decoder.mid_block.")]
    assert bool(names) == (middle is not None)
    assert any(".attentions." in name for name in names) == (middle == "attention")
    assert vae.eval().decode(torch.randn(1, 4, 8, 8), return_dict=False)[0].shape == (1, 3, 16, 16)


def test_levels_must_agree() -> None:
    with pytest.raises(ValueError, match="2 levels of the encoder, 3 of the decoder"):
        MobileAutoencoderKL(**WIDE, decoder_block_out_channels=(4, 8, 8))
