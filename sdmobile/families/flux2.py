"""The transformer of FLUX.2: text and picture in two streams of blocks that attend to each other, then in one.

    v = f(x_σ, 1000·σ, c)        c: features of a text's tokens, of those that fill it up too

Black Forest Labs, FLUX.2 (2025): the network is Diffusers' Flux2Transformer2DModel, after Esser et al., arXiv
2403.03206, whose latents are the autoencoder's, four cells in one. Every token has a place on four axes, by which its
queries and keys are turned (Su et al., arXiv 2104.09864): (0, 0, 0, l) for a text's, (0, row, column, 0) for a
picture's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families import rotary
from sdmobile.families.component import Config, Model, Shapes
from sdmobile.families.shapes import count_blocks
from sdmobile.families.transformer_components import NOISE_LEVEL, VELOCITY, patch_denoiser, text_context

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

_BLOCKS, _SINGLE_BLOCKS = "transformer_blocks.", "single_transformer_blocks."
_AXES = 4
_BASE = 2000.0
# What the forward pass of a file is of; None where Diffusers' default is another.
_FIXED: dict[str, tuple[Any, Any, str]] = {
    "guidance_embeds": (False, True, "a guidance scale as an input (FLUX.2 [dev])"),
    "patch_size": (1, 1, "patches of latents that are packed already"),
}
_DEFAULTS: Config = {
    "attention_head_dim": 128,
    "num_attention_heads": 48,
    "axes_dims_rope": [32, 32, 32, 32],
}


def turns(places: NDArray[np.int64], sizes: Sequence[int], theta: float) -> tuple[Any, Any]:
    """Returns the cosines and sines of places for every feature, two neighbours alike, each float32 [N, Σ sizes].

    Args:
        places: of each token on each axis, [N, A].
        sizes: features of each axis, [A].
        theta: θ.
    """
    import numpy as np

    angles = np.repeat(rotary.phases(places, sizes, theta), 2, axis=1)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def text_places(length: int) -> NDArray[np.int64]:
    """Returns the places of a text's tokens, [L, 4]."""
    import numpy as np

    return np.stack([*[np.zeros(length, np.int64)] * 3, np.arange(length)], axis=1)


def picture_places(rows: int, columns: int) -> NDArray[np.int64]:
    """Returns the places of a picture's tokens, row by row, [N, 4]."""
    import numpy as np

    down, across = (axis.reshape(-1) for axis in np.indices((rows, columns)))
    nothing = np.zeros_like(down)
    return np.stack([nothing, down, across, nothing], axis=1)


def _build(config: Config) -> nn.Module:
    from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel

    return cast("nn.Module", Flux2Transformer2DModel.from_config(config))


def _derive(shapes: Shapes) -> Config:
    facts: Config = {}
    if layers := count_blocks(shapes, _BLOCKS):
        facts |= {"num_layers": layers, "num_single_layers": count_blocks(shapes, _SINGLE_BLOCKS)}
        facts["guidance_embeds"] = "time_guidance_embed.guidance_embedder.linear_1.weight" in shapes
    if (picture := shapes.get("x_embedder.weight")) and len(picture) == 2:
        facts["in_channels"] = picture[1]
    if (text := shapes.get("context_embedder.weight")) and len(text) == 2:
        facts["joint_attention_dim"] = text[1]
    return facts


def check(config: Config) -> None:
    """Refuses options that add inputs, and sizes that do not fit each other.

    Raises:
        UnsupportedError: naming the option and its value.
        CheckpointError: sizes that make no network.
    """
    for key, (known, default, meaning) in _FIXED.items():
        if (value := config.get(key, default)) != known:
            rule = "the transformer must be that of FLUX.2 [klein], given latents, timestep and text"
            raise UnsupportedError(rule, f"{key} = {value}: {meaning}")
    for key in ("in_channels", "joint_attention_dim"):
        if type(config.get(key)) is not int:
            raise UnsupportedError(f"the configuration of the transformer must say {key}", config.get(key))
    rotary.base_of(config, _BASE)
    axes, width = (config.get(key, _DEFAULTS[key]) for key in ("axes_dims_rope", "attention_head_dim"))
    whole = isinstance(axes, list | tuple) and all(type(size) is int and size > 0 and size % 2 == 0 for size in axes)
    if not whole or len(axes) != _AXES or sum(axes) != width:
        raise CheckpointError(
            f"a head of the transformer must have the width of its {_AXES} axes of rotary positions, which are even",
            f"{width} features, axes of {axes}",
        )


def _wrap(module: nn.Module, channels_last: bool) -> nn.Module:
    from sdmobile.families.flux2_transformer import Flux2Transformer

    return Flux2Transformer(module, channels_last)


def _reference(module: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Runs Diffusers' network as its pipeline does."""
    import torch

    sample, text = inputs["sample"], inputs["encoder_hidden_states"]
    zero = torch.arange(1)
    answer = module(
        hidden_states=sample.flatten(2).transpose(1, 2),
        encoder_hidden_states=text,
        timestep=inputs["timestep"] / 1000,
        img_ids=torch.cartesian_prod(zero, torch.arange(sample.shape[2]), torch.arange(sample.shape[3]), zero),
        txt_ids=torch.cartesian_prod(zero, zero, zero, torch.arange(text.shape[1])),
        return_dict=False,
    )[0]
    return answer.transpose(1, 2).unflatten(2, sample.shape[2:])


MODEL = Model(
    name="transformer",
    classes=("Flux2Transformer2DModel",),
    build=_build,
    derive=_derive,
    check=lambda class_name, config: None,  # by `check`, when the tensors have corrected the configuration
)
TRANSFORMER = patch_denoiser(
    "noisy latents, timestep and text features to a velocity",
    NOISE_LEVEL,
    (text_context("Text features, those of what fills the text up too, {rows}"),),
    VELOCITY,
    _wrap,
    _reference,
)
