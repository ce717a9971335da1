"""Control networks beside a family's UNet: how a family with one follows from the family and what the network adds.

    every call of the UNet:  ε = UNet(x_t, t, c; r),   r = ControlNet(x_t, t, c, picture)
    once per picture:        ε = UNet(x_t, t, c; r),   r = plugin(picture)

Zhang et al., "Adding Conditional Control to Text-to-Image Diffusion Models", arXiv 2302.05543. The UNet's component
keeps its name and takes the feature maps r as further inputs; the network is one more component.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdmobile.errors import UnsupportedError
from sdmobile.families import apple, unet
from sdmobile.families.component import Component, Config, FileNames, Kind, Model, Role, Value

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sdmobile.families.family import Family
    from sdmobile.formats.bundle.contracts import Geometry

CONDITION = "controlnet_cond"
MOST = 8
"""Of control networks that go together."""
_APPLE = "ControlledUnet.mlpackage"
"""Looked for by Apple's Swift package where a ControlNet is asked for (StableDiffusionPipeline+Resources.swift)."""


@dataclass(frozen=True)
class Control:
    """A control network, as exported files know it.

    Args:
        kind: one of KINDS.
        name: of the network; apps find its file by it.
        maps: channels and latent cells per cell along an axis, of each feature map that it adds, in order.
        scale: by which its file multiplies what it adds.
    """

    kind: str
    name: str
    maps: tuple[tuple[int, int], ...]
    scale: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object; the scale where it is another than 1."""
        scale = {} if self.scale == 1 else {"scale": self.scale}
        return {"kind": self.kind, "name": self.name, "maps": [list(one) for one in self.maps], **scale}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Control:
        """Returns what `to_json` wrote."""
        maps = tuple((int(width), int(cells)) for width, cells in data["maps"])
        return cls(data["kind"], data["name"], maps, float(data.get("scale", 1)))


def controls_to_json(controls: Sequence[Control]) -> dict[str, Any] | list[dict[str, Any]] | None:
    """Returns what a manifest has as "control": None for none, an object for one, a list for several."""
    listed = [control.to_json() for control in controls]
    return listed if len(listed) > 1 else next(iter(listed), None)


def controls_from_json(data: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None) -> tuple[Control, ...]:
    """Returns what `controls_to_json` wrote."""
    listed = [data] if isinstance(data, Mapping) else data or ()
    return tuple(Control.from_json(one) for one in listed)


def numbered(name: str, index: int) -> str:
    """Returns the name of a component, model or file of the control network of an index: `x`, `x_2`, `x_3`."""
    return name if index == 0 else f"{name}_{index + 1}"


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


def app_facts(controls: Sequence[Control]) -> dict[str, Any]:
    """Returns what an app must know to drive control networks, as an entry of metadata.json; empty for none."""
    facts = [_app_facts(control, index, len(controls) > 1) for index, control in enumerate(controls)]
    return {} if not facts else {"control": facts if len(facts) > 1 else facts[0]}


def _app_facts(control: Control, index: int, summed: bool) -> dict[str, Any]:
    """Returns which network it is, when it is called, and what becomes of its outputs."""
    kind = KINDS[control.kind]
    once = kind.role is Role.PLUGIN
    outputs = "the sums over all control networks of the outputs of one name" if summed else "the outputs"
    scaled = {"scale": control.scale, "scaled": "the outputs are multiplied by it already"}
    return {
        "component": numbered(kind.component, index),
        "name": control.name,
        "called": "once per picture" if once else "before every call of the denoiser, with its inputs",
        "residuals": f"{outputs} are the denoiser's inputs of the same names" + (", in every row" if once else ""),
        "condition_range": [0.0, 1.0],
        **({} if control.scale == 1 else scaled),
    }


def controlled(family: Family, controls: Sequence[Control]) -> Family:
    """Returns a family with control networks, see `Family.with_controls`."""
    own, parts = family.denoiser, [family.control_part(control.kind) for control in controls]
    *networks, denoiser = _components(controls, own)
    before = family.components.index(own)
    result = copy(family)
    result.controls = tuple(controls)
    result.models = (
        *family.models,
        *(dataclasses.replace(part.model, name=numbered(part.model.name, i)) for i, part in enumerate(parts)),
    )
    result.components = (*family.components[:before], *networks, denoiser, *family.components[before + 1 :])
    result.app_use = apple.controlled_use(family.app_use, controls, family.guidances)
    result.app_scripts = apple.controlled_scripts(family.app_scripts, controls, family.guidances)
    return result


def _components(controls: Sequence[Control], denoiser: Component) -> tuple[Component, ...]:
    """Returns the control networks, and a family's denoiser with the feature maps as further inputs, last.

    Args:
        controls: at least one; what they add is summed.
        denoiser: that takes none.

    Raises:
        UnsupportedError: the denoiser has inputs of its own, or the networks are of two kinds.
    """
    control = controls[0]
    if any(other.kind != control.kind for other in controls):
        kinds = " and ".join(dict.fromkeys(other.kind for other in controls))
        raise UnsupportedError("control networks that go together must be of one kind", kinds)
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
        summary=f"{denoiser.summary}, with feature maps of "
        + ("a control network" if len(controls) == 1 else f"{len(controls)} control networks, summed"),
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
    networks = (_network(controls, index, denoiser, residuals) for index in range(len(controls)))
    return (*networks, controlled)


def _residual(kind: _Kind, index: int, size: tuple[int, int]) -> Value:
    channels, cells = size

    def shape(g: Geometry) -> tuple[int, ...]:
        # A strided convolution of 3×3 with a border of 1 rounds up.
        return (g.batch, channels, -(-g.latent_height // cells), -(-g.latent_width // cells))

    return Value(f"{kind.residual}_{index}", Kind.PIXELS, shape, "Feature map to add, {rows}")


def _network(controls: Sequence[Control], index: int, denoiser: Component, residuals: tuple[Value, ...]) -> Component:
    """Returns the component of a control network, whose batch is the UNet's where it is called with it."""
    control = controls[index]
    kind, scale = KINDS[control.kind], control.scale
    once = kind.role is Role.PLUGIN
    which = f" by {control.name}" if len(controls) > 1 else ""

    def rows(g: Geometry) -> int:
        return 1 if once else g.batch

    picture = Value(
        CONDITION,
        Kind.PIXELS,
        lambda g: (rows(g), 3, g.image_height, g.image_width),
        f"Picture that controls{which}, RGB in [0, 1]" + ("" if once else ", the same in every row"),
    )
    outputs = tuple(
        dataclasses.replace(one, shape=lambda g, one=one: (rows(g), *one.shape(g)[1:])) for one in residuals
    )
    inputs = (picture,) if once else (*denoiser.inputs, picture)
    names, results = tuple(value.name for value in inputs), tuple(value.name for value in outputs)

    def wrap(module: nn.Module, channels_last: bool) -> nn.Module:
        from sdmobile.families.wrappers import ControlNet, ControlPlugin

        return (ControlPlugin if once else ControlNet)(module, channels_last, scale)

    def reference(module: Any, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return tuple(one * scale for one in kind.reference(module, given))

    package = f"{numbered('ControlPlugin', index)}.mlpackage" if once else apple.controlnet_package(control.name)
    name = numbered(kind.component, index)
    return Component(
        name=name,
        role=kind.role,
        model=numbered(control.kind, index),
        summary=kind.summary + ("" if scale == 1 else f", multiplied by {scale:g}"),
        inputs=inputs,
        outputs=outputs,
        files={
            "ios": FileNames(package, "main", names, results),
            "android": FileNames(f"{name}.tflite", "control", names, results),
            "onnx": FileNames(f"{name}.onnx", "main", names, results),
        },
        wrap=wrap,
        reference=reference,
    )
