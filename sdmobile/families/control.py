"""Control networks beside a family's UNet: how a family with one follows from the family and what the network adds.

    every call of the UNet:  ε = UNet(x_t, t, c; r),   r = ControlNet(x_t, t, c, picture)
    once per picture:        ε = UNet(x_t, t, c; r),   r = plugin(picture)

Zhang et al., "Adding Conditional Control to Text-to-Image Diffusion Models", arXiv 2302.05543. The UNet's component
keeps its name and takes the feature maps r as further inputs; the network is one more component.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdmobile.errors import UnsupportedError
from sdmobile.families import apple, unet
from sdmobile.families.component import Component, Config, FileNames, Kind, Model, Role, Value

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sdmobile.formats.bundle.contracts import Geometry

CONDITION = "controlnet_cond"
_APPLE = "ControlledUnet.mlpackage"
"""Looked for by Apple's Swift package where a ControlNet is asked for (StableDiffusionPipeline+Resources.swift)."""


@dataclass(frozen=True)
class Control:
    """A control network, as exported files know it.

    Args:
        kind: one of KINDS.
        name: of the network; apps find its file by it.
        maps: channels and latent cells per cell along an axis, of each feature map that it adds, in order.
    """

    kind: str
    name: str
    maps: tuple[tuple[int, int], ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object."""
        return {"kind": self.kind, "name": self.name, "maps": [list(one) for one in self.maps]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Control:
        """Returns what `to_json` wrote."""
        return cls(data["kind"], data["name"], tuple((int(width), int(cells)) for width, cells in data["maps"]))


@dataclass(frozen=True)
class ControlPart:
    """A class of control networks that a family can take.

    Args:
        kind: one of KINDS.
        model: the network.
        maps: `Control.maps` of its configuration.
        stride: pixels of its picture per latent cell, of its configuration.
    """

    kind: str
    model: Model
    maps: Callable[[Config], tuple[tuple[int, int], ...]]
    stride: Callable[[Config], int]


@dataclass(frozen=True)
class _Kind:
    """What the files of a kind of control network have in common, whatever its architecture.

    Args:
        component: name of its component.
        role: whether it is called with the UNet or once per picture.
        summary: one sentence for its file's metadata.
        residual: what a feature map is called; its number follows.
        arguments: of the UNet's forward, from the feature maps.
        reference: the feature maps, from the network and its canonical inputs.
    """

    component: str
    role: Role
    summary: str
    residual: str
    arguments: Callable[[tuple[Tensor, ...]], dict[str, Any]]
    reference: Callable[[Any, Mapping[str, Tensor]], tuple[Tensor, ...]]


def _controlnet_arguments(residuals: tuple[Tensor, ...]) -> dict[str, Any]:
    return {
        "down_block_additional_residuals": residuals[:-1],
        "mid_block_additional_residual": residuals[-1],
    }


def _controlnet_reference(module: Any, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    names = ("sample", "timestep", "encoder_hidden_states", CONDITION)
    down, mid = module(*(inputs[name] for name in names), return_dict=False)
    return (*down, mid)


def _plugin_arguments(residuals: tuple[Tensor, ...]) -> dict[str, Any]:
    return {"down_intrablock_additional_residuals": list(residuals)}


KINDS: dict[str, _Kind] = {
    "controlnet": _Kind(
        component="controlnet",
        role=Role.CONTROL,
        summary="Control network: what the UNet takes, and a picture, to residuals for the UNet, at every step",
        residual="additional_residual",
        arguments=_controlnet_arguments,
        reference=_controlnet_reference,
    ),
    "plugin": _Kind(
        component="control_plugin",
        role=Role.PLUGIN,
        summary="Control plugin: a picture to features for the UNet, once per picture",
        residual="intrablock_residual",
        arguments=_plugin_arguments,
        reference=lambda module, inputs: module(inputs[CONDITION]),
    ),
}


def app_facts(control: Control) -> dict[str, Any]:
    """Returns what an app must know to drive a control network: which one it is, and when it is called."""
    kind = KINDS[control.kind]
    once = kind.role is Role.PLUGIN
    return {
        "component": kind.component,
        "name": control.name,
        "called": "once per picture" if once else "before every call of the denoiser, with its inputs",
        "residuals": "the outputs are the denoiser's inputs of the same names" + (", in every row" if once else ""),
        "condition_range": [0.0, 1.0],
    }


def components_of(control: Control, denoiser: Component) -> tuple[Component, Component]:
    """Returns a family's denoiser with the feature maps as further inputs, and the control network."""
    kind = KINDS[control.kind]
    residuals = tuple(_residual(kind, index, size) for index, size in enumerate(control.maps))
    names = tuple(value.name for value in residuals)

    def wrap_denoiser(module: nn.Module, channels_last: bool) -> nn.Module:
        from sdmobile.families.wrappers import ControlledUNet

        return ControlledUNet(module, channels_last, kind.arguments)

    def reference(module: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        further = kind.arguments(tuple(inputs[name] for name in names))
        arguments = (inputs[name] for name in unet.INPUTS)
        return module(*arguments, return_dict=False, **further)[0]

    if tuple(value.name for value in denoiser.inputs) != unet.INPUTS:
        further = [value.name for value in denoiser.inputs[len(unet.INPUTS) :]]
        raise UnsupportedError("a control network goes with a UNet without inputs of its own", ", ".join(further))
    controlled = dataclasses.replace(
        denoiser,
        summary=f"{denoiser.summary}, with feature maps of a control network",
        inputs=(*denoiser.inputs, *residuals),
        files={
            target: dataclasses.replace(
                files,
                file=_APPLE if target == "ios" else f"controlled_{files.file}",
                inputs=(*files.inputs, *names),
            )
            for target, files in denoiser.files.items()
        },
        wrap=wrap_denoiser,
        reference=reference,
    )
    return controlled, _network(control, kind, denoiser, residuals)


def _residual(kind: _Kind, index: int, size: tuple[int, int]) -> Value:
    channels, cells = size

    def shape(g: Geometry) -> tuple[int, ...]:
        # A strided convolution of 3×3 with a border of 1 rounds up.
        return (g.batch, channels, -(-g.latent_height // cells), -(-g.latent_width // cells))

    return Value(f"{kind.residual}_{index}", Kind.PIXELS, shape, "Feature map to add, {rows}")


def _network(control: Control, kind: _Kind, denoiser: Component, residuals: tuple[Value, ...]) -> Component:
    """Returns the component of the control network, whose batch is the UNet's where it is called with it."""
    once = kind.role is Role.PLUGIN

    def rows(g: Geometry) -> int:
        return 1 if once else g.batch

    picture = Value(
        CONDITION,
        Kind.PIXELS,
        lambda g: (rows(g), 3, g.image_height, g.image_width),
        "Picture that controls, RGB in [0, 1]" + ("" if once else ", the same in every row"),
    )
    outputs = tuple(
        dataclasses.replace(one, shape=lambda g, one=one: (rows(g), *one.shape(g)[1:])) for one in residuals
    )
    inputs = (picture,) if once else (*denoiser.inputs, picture)
    names, results = tuple(value.name for value in inputs), tuple(value.name for value in outputs)

    def wrap(module: nn.Module, channels_last: bool) -> nn.Module:
        from sdmobile.families.wrappers import ControlNet, ControlPlugin

        return (ControlPlugin if once else ControlNet)(module, channels_last)

    package = "ControlPlugin.mlpackage" if once else apple.controlnet_package(control.name)
    return Component(
        name=kind.component,
        role=kind.role,
        model=control.kind,
        summary=kind.summary,
        inputs=inputs,
        outputs=outputs,
        files={
            "ios": FileNames(package, "main", names, results),
            "android": FileNames(f"{kind.component}.tflite", "control", names, results),
            "onnx": FileNames(f"{kind.component}.onnx", "main", names, results),
        },
        wrap=wrap,
        reference=kind.reference,
    )
