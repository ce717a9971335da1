"""The control networks of MobileDiffusion as parts of a family: a ControlNet and a light plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from sdmobile.families.component import Config, Model, Shapes
from sdmobile.families.control import ControlPart
from sdmobile.families.mobile_unet import check_relu, convert, derive_way_down, no_base_config
from sdmobile.families.shapes import count_blocks

if TYPE_CHECKING:
    from torch import nn

_EMBEDDING = "conditioning_embedding_out_channels"
_STRIDE = "conditioning_stride"
_WIDTHS = "block_out_channels"
# No network of these classes comes near; the file is not to decide how much is built before its tensors are looked at.
_MOST_LEVELS, _MOST_BLOCKS = 32, 64


def _build_controlnet(config: Config) -> nn.Module:
    from sdmobile.models.controlnet import MobileControlNetModel

    return cast("nn.Module", MobileControlNetModel.from_config(config))


def _build_plugin(config: Config) -> nn.Module:
    from sdmobile.models.plugin import MobileControlPlugin

    return cast("nn.Module", MobileControlPlugin.from_config(config))


def _derive_controlnet(shapes: Shapes) -> Config:
    facts = derive_way_down(shapes)
    if first := shapes.get("conv_in.weight"):
        facts["in_channels"] = first[1]
    return facts


def _derive_plugin(shapes: Shapes) -> Config:
    levels = range(count_blocks(shapes, "conv_out."))
    outs = [shapes.get(f"conv_out.{level}.weight", ()) for level in levels]
    if not levels or not all(outs):
        return {}
    return {_WIDTHS: [out[0] for out in outs], "channels": [out[1] for out in outs]}


def controlnet_maps(config: Config) -> tuple[tuple[int, int], ...]:
    """Returns channels and reduction of every feature map that a UNet keeps on its way down, and of its middle.

    Args:
        config: of the UNet, or of its ControlNet.
    """
    widths, layers = _short(config[_WIDTHS]), _short(config["layers_per_block"])
    if not all(type(count) is int and 0 < count <= _MOST_BLOCKS for count in layers):
        raise ValueError(f"layers_per_block must be whole numbers from 1 to {_MOST_BLOCKS}")
    maps = [(widths[0], 1)]
    for level, (width, count) in enumerate(zip(widths, layers, strict=True)):
        maps += [(width, 2**level)] * count
        if level < len(widths) - 1:
            maps.append((width, 2 ** (level + 1)))
    return (*maps, (widths[-1], 2 ** (len(widths) - 1)))


def plugin_maps(config: Config) -> tuple[tuple[int, int], ...]:
    """Returns channels and reduction of every level of a UNet; the configuration may be a plugin's."""
    return tuple((width, 2**level) for level, width in enumerate(_short(config[_WIDTHS])))


def _short(values: Any) -> list[Any]:
    """Returns one value per level; raises ValueError where there are more than any network has."""
    if not isinstance(values, list | tuple) or not 0 < len(values) <= _MOST_LEVELS:
        raise ValueError(f"a configuration must have one value per level, for at most {_MOST_LEVELS} levels")
    return list(values)


def _nothing(class_name: str, config: Config) -> None:
    """A plugin has no option that is not supported."""


def _model(name: str, class_name: str, **own: Any) -> Model:
    return Model(name=name, classes=(class_name,), prefixes=(), convert=convert, base_config=no_base_config, **own)


CONTROLNET = ControlPart(
    kind="controlnet",
    model=_model(
        "controlnet",
        "MobileControlNetModel",
        build=_build_controlnet,
        derive=_derive_controlnet,
        check=check_relu,
    ),
    maps=controlnet_maps,
    stride=lambda config: 2 ** (len(_short(config[_EMBEDDING])) - 1),
)
PLUGIN = ControlPart(
    kind="plugin",
    model=_model("plugin", "MobileControlPlugin", build=_build_plugin, derive=_derive_plugin, check=_nothing),
    maps=plugin_maps,
    stride=lambda config: config[_STRIDE],
)
