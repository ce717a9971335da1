"""The ControlNet of Stable Diffusion, Diffusers' `ControlNetModel`, as a part of a family.

    r_i = Z_i(F_i(x_t, t, c, E(picture)))        F the UNet's way down and middle, Z_i 1×1 convolutions, i = 0 … n−1

Zhang et al., "Adding Conditional Control to Text-to-Image Diffusion Models", arXiv 2302.05543.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from sdmobile.errors import UnsupportedError
from sdmobile.families import unet
from sdmobile.families.component import Config, Model, Shapes
from sdmobile.families.control import ControlPart

if TYPE_CHECKING:
    from torch import nn

WIDTHS = "block_out_channels"
_LAYERS = "layers_per_block"
_EMBEDDING = "conditioning_embedding_out_channels"
_POOLED = "global_pool_conditions"
_PICTURE = "conditioning_channels"
_ORDER = "controlnet_conditioning_channel_order"
_RGB = 3
# No network of these classes comes near; the file is not to decide how much is built before its tensors are looked at.
_MOST_LEVELS, _MOST_BLOCKS = 32, 64
# Of the way up, which a ControlNet has none of.
_ABSENT = ("up_block_types", "out_channels")


def _build(config: Config) -> nn.Module:
    from diffusers.models.controlnets.controlnet import ControlNetModel

    return cast("nn.Module", ControlNetModel.from_config(config))


def _derive(shapes: Shapes) -> Config:
    return {key: value for key, value in unet.derive(shapes).items() if key not in _ABSENT}


def _check(class_name: str, config: Config) -> None:
    unet.check(class_name, config)
    rule = "a control network must add one feature map to each of the UNet's, by an RGB picture"
    if config.get(_POOLED):
        raise UnsupportedError(rule, f"{class_name} with {_POOLED}: one value per channel (shuffle, reference)")
    if config.get(_ORDER, "rgb") not in ("rgb", "bgr"):
        raise UnsupportedError(rule, f"{class_name} with {_ORDER} = {config[_ORDER]!r}")
    if config.get(_PICTURE, _RGB) != _RGB:
        raise UnsupportedError(rule, f"{class_name} with {_PICTURE} = {config[_PICTURE]}")


def controlnet_maps(config: Config) -> tuple[tuple[int, int], ...]:
    """Returns channels and reduction of every feature map that a UNet keeps on its way down, and of its middle.

    Args:
        config: of the UNet, or of its ControlNet.

    Raises:
        ValueError: if the levels are no levels.
    """
    widths = per_level(config[WIDTHS])
    stated = config.get(_LAYERS, 2)  # Diffusers' default
    layers = per_level(stated if isinstance(stated, list | tuple) else [stated] * len(widths))
    if not all(type(count) is int and 0 < count <= _MOST_BLOCKS for count in layers):
        raise ValueError(f"layers_per_block must be whole numbers from 1 to {_MOST_BLOCKS}")
    maps = [(widths[0], 1)]
    for level, (width, count) in enumerate(zip(widths, layers, strict=True)):
        maps += [(width, 2**level)] * count
        if level < len(widths) - 1:
            maps.append((width, 2 ** (level + 1)))
    return (*maps, (widths[-1], 2 ** (len(widths) - 1)))


def controlnet_stride(config: Config) -> int:
    """Returns pixels of the picture per latent cell: every width of its embedding but the first halves it."""
    return 2 ** (len(per_level(config.get(_EMBEDDING, (16, 32, 96, 256)))) - 1)


def per_level(values: Any) -> list[Any]:
    """Returns one value per level; raises ValueError where there are more than any network has."""
    if not isinstance(values, list | tuple) or not 0 < len(values) <= _MOST_LEVELS:
        raise ValueError(f"a configuration must have one value per level, for at most {_MOST_LEVELS} levels")
    return list(values)


CONTROLNET = ControlPart(
    kind="controlnet",
    model=Model(
        name="controlnet",
        classes=("ControlNetModel",),
        prefixes=(),
        build=_build,
        derive=_derive,
        check=_check,
        sources=lambda shapes: {},
        base_config=lambda shapes, names: {},
    ),
    maps=controlnet_maps,
    stride=controlnet_stride,
)
