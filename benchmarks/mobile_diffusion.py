"""MobileDiffusion's design rules one after the other at full size: parameters and multiplications of one UNet call.

    python benchmarks/mobile_diffusion.py

Counted on PyTorch's meta device, so no weights exist; the sample is 64 × 64 latents (512 × 512 pixels), one row, 77
tokens. Prints a Markdown table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from sdmobile.models.configurations import DECODER, MOBILE_DIFFUSION, MOBILE_DIFFUSION_LITE, STABLE_DIFFUSION_15

Config = dict[str, Any]
TOKENS = 77


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    parameters: int
    macs: int


def steps() -> list[tuple[str, Config]]:
    """Returns the configurations; each but the last two has all changes of those before it."""
    changes: list[tuple[str, Config]] = [
        ("no transformer at 64 × 64", {"transformer_layers_per_block": (0, 1, 1, 0)}),
        ("no self-attention at 32 × 32", {"self_attention": (False, False, True, True)}),
        ("one projection for keys and values", {"share_key_value": True}),
        ("swish for GELU in the gate", {"feed_forward": "swiglu"}),
        ("inner width 3, not 4", {"feed_forward_multiplier": 3}),
        ("separable 3 × 3 at 16 × 16 and 8 × 8", {"separable": (False, False, True, True)}),
        ("one block per level but the innermost", {"layers_per_block": (1, 1, 1, 2)}),
    ]
    rows, config = [("Stable Diffusion 1.5", STABLE_DIFFUSION_15)], STABLE_DIFFUSION_15
    for name, change in changes:
        config = {**config, **change}
        rows.append((name, config))
    return [
        *rows,
        ("mobile-diffusion (three levels)", MOBILE_DIFFUSION),
        ("mobile-diffusion-lite", MOBILE_DIFFUSION_LITE),
    ]


def unet_row(name: str, config: Config) -> Row:
    """Counts one call of a UNet."""
    from sdmobile.models.unet import MobileUNet2DConditionModel

    with torch.device("meta"):
        unet: Any = MobileUNet2DConditionModel(**config)
        sample = torch.empty(1, config["in_channels"], config["sample_size"], config["sample_size"])
        states, timestep = torch.empty(1, TOKENS, config["cross_attention_dim"]), torch.empty(1)
        return _counted(name, unet, lambda: unet(sample, timestep, states))


def decoder_row() -> Row:
    """Counts one call of the thin decoder."""
    from sdmobile.models.autoencoder import MobileAutoencoderKL

    with torch.device("meta"):
        vae: Any = MobileAutoencoderKL(**DECODER)
        latent = torch.empty(1, DECODER["latent_channels"], 64, 64)
        return _counted("decoder", vae.decoder, lambda: vae.decoder(latent))


def _counted(name: str, module: torch.nn.Module, call: Any) -> Row:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return Row(name, parameters, counter.get_total_flops() // 2)


def main() -> None:
    """Prints the table."""
    rows = [unet_row(name, config) for name, config in steps()]
    print("| | parameters, M | of SD 1.5 | multiplications, G | of SD 1.5 |")
    print("|---|---|---|---|---|")
    first = rows[0]
    for row in rows:
        shares = [f"{100 * row.parameters / first.parameters:.0f} %", f"{100 * row.macs / first.macs:.0f} %"]
        print(f"| {row.name} | {row.parameters / 1e6:.1f} | {shares[0]} | {row.macs / 1e9:.1f} | {shares[1]} |")
    row = decoder_row()
    print(f"\nThin decoder: {row.parameters / 1e6:.2f} M parameters, {row.macs / 1e9:.1f} G multiplications")


if __name__ == "__main__":
    main()
