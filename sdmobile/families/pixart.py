"""The transformer of PixArt: picture's tokens attend to each other and to a text's, all blocks share one modulation.

    s, b, g, s', b', g' = table_i + W·t̄                                   t̄ of the timestep, table_i of the block
    x = x + g·attention(n(x)·(1 + s) + b),  x = x + attention(x, text, mask),  x = x + g'·MLP(n(x)·(1 + s') + b')

Chen et al., "PixArt-α", arXiv 2310.00426, section 2.3, and "PixArt-Σ", arXiv 2403.04692. A network that also learned
the variance of the noise returns twice the channels of a latent; the first half is the prediction.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from sdmobile.errors import UnsupportedError
from sdmobile.families.component import Config, Kind, Model, Shapes, Value
from sdmobile.families.schedulers import finite_positive
from sdmobile.families.shapes import count_blocks
from sdmobile.families.transformer_components import patch_denoiser, text_context

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

MASK = "encoder_attention_mask"
_BLOCKS = "transformer_blocks."
_SIZES = "adaln_single.emb.resolution_embedder.linear_1.weight"
# What the forward pass below is of, and what other values would mean.
_FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "norm_type": (("ada_norm_single",), "another kind of norm"),
    "attention_type": ((None, "default"), "gated attention (GLIGEN)"),
    "use_additional_conditions": ((False,), "sizes of the picture as inputs (PixArt-α at 1024 pixels)"),
}
_DEFAULTS: Config = {"norm_type": "ada_norm_single", "use_additional_conditions": None}


def position_table(width: int, rows: int, columns: int, base: int, scale: float) -> NDArray[np.float32]:
    """Returns what is added to the tokens of a picture for their places, [1, rows·columns, width].

        e(p) = [sin(p·f), cos(p·f)],  f_k = 10000^(−k/(width/4)),  place = [e(column), e(row)]

    with rows and columns counted in steps that make any picture as wide and as high as `base` tokens, over `scale`.

    Args:
        width: features of a token.
        rows, columns: tokens of the picture.
        base: tokens along a side of the pictures that the network was trained on.
        scale: that their places were divided by.
    """
    import numpy as np

    frequencies = 1.0 / 10000.0 ** (np.arange(width // 4) / (width / 4.0))
    sides = [
        np.arange(count, dtype=np.float32) / np.float32(count / base) / np.float32(scale) for count in (rows, columns)
    ]
    down, across = (np.outer(side.astype(np.float64), frequencies) for side in sides)
    waves = [np.concatenate([np.sin(phases), np.cos(phases)], axis=1) for phases in (across, down)]
    table = np.concatenate([np.tile(waves[0], (rows, 1)), np.repeat(waves[1], columns, axis=0)], axis=1)
    return table[None].astype(np.float32)


def _build(config: Config) -> nn.Module:
    import torch
    from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel

    # The published configuration names Transformer2DModel, whose further settings mean nothing here.
    own = inspect.signature(PixArtTransformer2DModel.__init__).parameters
    module: Any = PixArtTransformer2DModel(**{key: value for key, value in config.items() if key in own})
    # Computed, and in no file; it has to hold numbers though weights do not yet.
    places: Any = module.pos_embed
    table = position_table(module.inner_dim, places.height, places.width, places.base_size, places.interpolation_scale)
    places.register_buffer("pos_embed", torch.from_numpy(table), persistent=False)
    return cast("nn.Module", module)


def _derive(shapes: Shapes) -> Config:
    facts: Config = {}
    if layers := count_blocks(shapes, _BLOCKS):
        facts |= {"num_layers": layers, "use_additional_conditions": _SIZES in shapes}
    if (patches := shapes.get("pos_embed.proj.weight")) and len(patches) == 4:
        facts |= {"in_channels": patches[1], "patch_size": patches[2]}
        if (last := shapes.get("proj_out.weight")) and patches[2]:
            facts["out_channels"] = last[0] // patches[2] ** 2
    if (text := shapes.get("caption_projection.linear_1.weight")) and len(text) == 2:
        facts |= {"cross_attention_dim": text[0], "caption_channels": text[1]}
    return facts


def check(config: Config) -> None:
    """Refuses options that add inputs or change blocks.

    Raises:
        UnsupportedError: naming the option and its value.
    """
    for key, (known, meaning) in _FIXED.items():
        value = config.get(key, _DEFAULTS.get(key))
        if value not in known:
            raise UnsupportedError(
                "the transformer must be that of PixArt-Σ, given latents, timestep and text",
                f"{key} = {value}: {meaning}",
            )
    for key in ("caption_channels", "out_channels", "in_channels"):
        if type(config.get(key)) is not int:
            raise UnsupportedError(f"the configuration of the transformer must say {key}", config.get(key))
    scale = config.get("interpolation_scale")
    if scale is not None and not finite_positive(scale):
        raise UnsupportedError("interpolation_scale of the transformer must be a finite number above zero", scale)


def _wrap(module: nn.Module, channels_last: bool) -> nn.Module:
    from sdmobile.families.pixart_transformer import PixArtTransformer

    return PixArtTransformer(module, channels_last)


def _reference(module: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    prediction = module(
        inputs["sample"],
        encoder_hidden_states=inputs["encoder_hidden_states"],
        timestep=inputs["timestep"],
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        encoder_attention_mask=inputs[MASK],
        return_dict=False,
    )[0]
    return prediction[:, : inputs["sample"].shape[1]]


MODEL = Model(
    name="transformer",
    classes=("PixArtTransformer2DModel", "Transformer2DModel"),
    build=_build,
    derive=_derive,
    check=lambda class_name, config: None,  # by `check`, when the tensors have corrected the configuration
)
TRANSFORMER = patch_denoiser(
    "noisy latents, timestep, text features and the text's mask to a prediction",
    "Timestep of the training schedule, the same in every row",
    (
        text_context(),
        Value(
            MASK,
            Kind.VECTOR,
            lambda g: (g.batch, g.context_length),
            "1 for each token of the text, 0 for padding, {rows}",
        ),
    ),
    "Prediction for each row, before guidance",
    _wrap,
    _reference,
)
