"""The control networks of MobileDiffusion as parts of a family: a ControlNet and a light plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from sdmobile.families.component import Config, Model, Shapes
from sdmobile.families.control import ControlPart
from sdmobile.families.mobile_unet import check_relu, derive_way_down, no_base_config, no_sources
from sdmobile.families.shapes import count_blocks
from sdmobile.families.unet_control import WIDTHS, controlnet_maps, controlnet_stride, per_level

if TYPE_CHECKING:
    from torch import nn

_STRIDE = "conditioning_stride"


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
    return {WIDTHS: [out[0] for out in outs], "channels": [out[1] for out in outs]}


def plugin_maps(config: Config) -> tuple[tuple[int, int], ...]:
    """Returns channels and reduction of every level of a UNet; the configuration may be a plugin's."""
    return tuple((width, 2**level) for level, width in enumerate(per_level(config[WIDTHS])))


def _nothing(class_name: str, config: Config) -> None:
    """A plugin has no option that is not supported."""


def _model(name: str, class_name: str, **own: Any) -> Model:
    return Model(name=name, classes=(class_name,), prefixes=(), sources=no_sources, base_config=no_base_config, **own)


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
    stride=controlnet_stride,
)
PLUGIN = ControlPart(
    kind="plugin",
    model=_model("plugin", "MobileControlPlugin", build=_build_plugin, derive=_derive_plugin, check=_nothing),
    maps=plugin_maps,
    stride=lambda config: config[_STRIDE],
)
