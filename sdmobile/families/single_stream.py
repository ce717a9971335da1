"""The transformer of Z-Image: the tokens of a text behind those of a picture, in one stream of blocks.

    v = −f(x_σ, 1 − σ, c)        c: features of the text's n tokens, then a learned vector in rows up to 32·⌈n/32⌉

Z-Image team, "Z-Image: An Efficient Image Generation Foundation Model with Single-Stream Diffusion Transformer", arXiv
2511.22699. The network is Diffusers' ZImageTransformer2DModel, whose time runs from noise to picture.

Positions are turned into angles (RoPE), so that only differences count: the text's last row stands one place before the
picture. A file has room for L rows; a text takes the last ones, and its places are the same for every length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families import rotary
from sdmobile.families.component import Config, Kind, Model, Shapes, Value
from sdmobile.families.shapes import count_blocks
from sdmobile.families.transformer_components import NOISE_LEVEL, VELOCITY, patch_denoiser, text_context

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

MASK = "encoder_attention_mask"
BLOCK = 32
"""Rows by which a sequence grows: what is missing of them is filled up with a learned vector."""
PATCH = 2
MULTIPLE = 16
"""Latent cells by which a side grows, so that any picture has a multiple of `BLOCK` tokens.

Tokens that fill up a picture stand at place 0, before the text: how far from it depends on the text's length."""
_EMBEDDER = f"all_x_embedder.{PATCH}-1.weight"
_BLOCKS, _REFINERS = "layers.", "noise_refiner."
# What the forward pass of a file is of.
_FIXED: dict[str, tuple[Any, str]] = {
    "all_patch_size": ([PATCH], "patches of other sizes"),
    "all_f_patch_size": ([1], "patches of several frames"),
    "siglip_feat_dim": (None, "pictures as conditions (Omni)"),
    "t_scale": (1000.0, "another scale of time"),
}
_DEFAULTS: Config = {
    "all_patch_size": [PATCH],
    "all_f_patch_size": [1],
    "t_scale": 1000.0,
    "axes_dims": [32, 48, 48],
    "axes_lens": [1024, 512, 512],
    "rope_theta": 256.0,
    "n_heads": 30,
}


def setting(config: Mapping[str, Any], key: str) -> Any:
    """Returns a setting of the transformer, or Diffusers' default."""
    return config.get(key, _DEFAULTS[key])


def angles(places: NDArray[np.int64], sizes: Sequence[int], theta: float) -> tuple[Any, Any]:
    """Returns the cosines and sines of rotary positions, each float32 [N, Σ sizes/2].

    Args:
        places: of each token on each axis, [N, A].
        sizes: features of each axis, [A].
        theta: θ.
    """
    import numpy as np

    turns = rotary.phases(places, sizes, theta).astype(np.float32)  # as Diffusers rounds them
    return np.cos(turns), np.sin(turns)


def text_places(length: int) -> NDArray[np.int64]:
    """Returns the places of a text's rows, [L, 3]: 1 to L on the first axis."""
    import numpy as np

    return np.stack([np.arange(1, length + 1), *[np.zeros(length, np.int64)] * 2], axis=1)


def picture_places(rows: int, columns: int, length: int) -> NDArray[np.int64]:
    """Returns the places of a picture's tokens, [N, 3], behind a text of L rows.

    Args:
        rows, columns: tokens of the picture.
        length: L.
    """
    import numpy as np

    down, across = (axis.reshape(-1) for axis in np.indices((rows, columns)))
    return np.stack([np.full(rows * columns, length + 1), down, across], axis=1)


def to_the_end(features: NDArray[np.float32], tokens: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns the features of a text and its mask as the file takes them: [1, L, D] and [1, L].

    Args:
        features: [1, L, D], of which the first rows are the text's.
        tokens: n, as many.
    """
    import numpy as np

    length = features.shape[1]
    first = length - min(length, -(-tokens // BLOCK) * BLOCK)
    moved, mask = np.zeros_like(features), np.zeros((1, length), np.float32)
    moved[:, first : first + tokens] = features[:, :tokens]
    mask[:, first : first + tokens] = 1
    return moved, mask


def _build(config: Config) -> nn.Module:
    from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel

    return cast("nn.Module", ZImageTransformer2DModel.from_config(config))


def _derive(shapes: Shapes) -> Config:
    facts: Config = {}
    if layers := count_blocks(shapes, _BLOCKS):
        facts |= {"n_layers": layers, "n_refiner_layers": count_blocks(shapes, _REFINERS)}
        facts["qk_norm"] = f"{_BLOCKS}0.attention.norm_q.weight" in shapes
    if (patches := shapes.get(_EMBEDDER)) and len(patches) == 2:
        facts |= {"dim": patches[0], "in_channels": patches[1] // PATCH**2}
    if (text := shapes.get("cap_embedder.1.weight")) and len(text) == 2:
        facts["cap_feat_dim"] = text[1]
    return facts


def check(config: Config) -> None:
    """Refuses options that add inputs, and sizes that do not fit each other.

    Raises:
        UnsupportedError: naming the option and its value.
        CheckpointError: sizes that make no network.
    """
    for key, (known, meaning) in _FIXED.items():
        value = config.get(key, _DEFAULTS.get(key))
        if (list(value) if isinstance(value, tuple) else value) != known:
            rule = "the transformer must be that of Z-Image, given latents, timestep and text"
            raise UnsupportedError(rule, f"{key} = {value}: {meaning}")
    for key in ("in_channels", "dim", "cap_feat_dim"):
        if type(config.get(key)) is not int:
            raise UnsupportedError(f"the configuration of the transformer must say {key}", config.get(key))
    rotary.base_of(config, _DEFAULTS["rope_theta"])
    heads, axes, lengths = (setting(config, key) for key in ("n_heads", "axes_dims", "axes_lens"))
    whole = all(
        isinstance(values, list | tuple) and len(values) == 3 and all(type(v) is int and v > 0 for v in values)
        for values in (axes, lengths)
    )
    if not whole or any(size % 2 for size in axes):
        raise CheckpointError("axes_dims and axes_lens of the transformer must be three whole numbers", (axes, lengths))
    if type(heads) is not int or heads < 1 or heads * sum(axes) != config["dim"]:
        raise CheckpointError(
            "the heads of the transformer must have the width of its rotary positions",
            f"{heads} heads, {config['dim']} features, axes of {axes}",
        )


def _wrap(module: nn.Module, channels_last: bool) -> nn.Module:
    from sdmobile.families.single_stream_transformer import ZImageTransformer

    return ZImageTransformer(module, channels_last)


def _reference(module: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Runs Diffusers' network, which takes the rows of each text alone."""
    import torch

    texts = [rows[mask > 0.5] for rows, mask in zip(inputs["encoder_hidden_states"], inputs[MASK], strict=True)]
    pictures = list(inputs["sample"].unsqueeze(2))
    answers = module(pictures, (1000 - inputs["timestep"]) / 1000, texts, return_dict=False)[0]
    return -torch.stack([answer.squeeze(1) for answer in answers])


MODEL = Model(
    name="transformer",
    classes=("ZImageTransformer2DModel",),
    build=_build,
    derive=_derive,
    check=lambda class_name, config: None,  # by `check`, when the tensors have corrected the configuration
)
TRANSFORMER = patch_denoiser(
    "noisy latents, timestep, text features and the text's mask to a velocity",
    NOISE_LEVEL,
    (
        text_context(f"Text features, moved towards the end by multiples of {BLOCK} rows, {{rows}}"),
        Value(
            MASK,
            Kind.VECTOR,
            lambda g: (g.batch, g.context_length),
            "1 for each token of the text, where its features are, else 0, {rows}",
        ),
    ),
    VELOCITY,
    _wrap,
    _reference,
)
