"""A control network beside a checkpoint: a folder in Diffusers' format, of a class that the family takes."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from sdmobile.checkpoints.bundled import bundled_path
from sdmobile.checkpoints.folder import read_component
from sdmobile.checkpoints.hub import origin_of
from sdmobile.checkpoints.hub_parts import CONTROL, located
from sdmobile.checkpoints.jsonfile import read_json
from sdmobile.errors import CheckpointError
from sdmobile.families.control import Control

if TYPE_CHECKING:
    from pathlib import Path

    from sdmobile.checkpoints.types import Checkpoint, ComponentInfo
    from sdmobile.families.control import ControlPart

_SAME = ("in_channels", "cross_attention_dim")
_FITS = "the control network must have been made for the checkpoint's UNet"


def with_control(checkpoint: Checkpoint, folder: Path, name: str | None = None) -> Checkpoint:
    """Returns a checkpoint with a control network: one more model, and a family whose denoiser takes what it adds.

    Args:
        checkpoint: the opened one.
        folder: config.json with `_class_name`, and weights; or the name of one that ships with the package, or is on
            the Hub.
        name: of the network; None for the folder's.

    Raises:
        CheckpointError: the folder is not whole, or the network was made for another UNet.
        UnsupportedError: the family takes no network of the class.
    """
    folder = located(bundled_path(folder), CONTROL)
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            "a control network is a folder with config.json and weights", folder, "Give a folder in Diffusers' format."
        )
    class_name = read_json(folder / "config.json").get("_class_name")
    part = checkpoint.family.control_part(class_name)
    info, notes = read_component(folder, part.model, str(class_name))
    control = Control(part.kind, name or _name(folder), _checked_maps(checkpoint, part, info))
    return replace(
        checkpoint,
        family=checkpoint.family.with_control(control, info.class_name),
        components={**checkpoint.components, part.model.name: info},
        notes=(*checkpoint.notes, *notes),
        control_files=(folder / "config.json", *info.weight_files),
    )


def _checked_maps(checkpoint: Checkpoint, part: ControlPart, info: ComponentInfo) -> tuple[tuple[int, int], ...]:
    """Returns the feature maps of a network, which are those that the UNet can take."""
    config, unet = info.config, checkpoint.components[checkpoint.family.denoiser.model].config
    try:
        maps, wanted, stride = part.maps(config), part.maps(unet), part.stride(config)
    except (KeyError, TypeError, ValueError, IndexError, ArithmeticError) as error:
        raise CheckpointError(
            f"the configuration of a {info.class_name} must say its levels", f"{type(error).__name__}: {error}"
        ) from error
    if maps != wanted:
        raise CheckpointError(_FITS, f"feature maps {_shown(maps)}; the UNet's are {_shown(wanted)}")
    for key in _SAME:
        if key in config and config[key] != unet.get(key):
            raise CheckpointError(_FITS, f"{key} is {config[key]}; the UNet's is {unet.get(key)}")
    if stride != checkpoint.vae_scale_factor:
        raise CheckpointError(
            f"{checkpoint.vae_scale_factor} pixels of the picture that controls must become one latent cell", stride
        )
    return maps


def _shown(maps: tuple[tuple[int, int], ...]) -> str:
    return ", ".join(f"{channels} at 1/{cells}" for channels, cells in maps)


def _name(folder: Path) -> str:
    """Returns a folder's name, or its repository's, in the characters that a file of an app may have."""
    origin = origin_of(folder)
    own = origin.name if origin is not None and folder.name == origin.commit else folder.resolve().name
    plain = re.sub(r"[^A-Za-z0-9]+", "_", own).strip("_")
    return plain[:64].rstrip("_") or "control"
