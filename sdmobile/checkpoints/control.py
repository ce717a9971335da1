"""Control networks beside a checkpoint: folders in Diffusers' format, of a class that the family takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sdmobile.checkpoints.bundled import ScaledPath, bundled_path, scaled_path
from sdmobile.checkpoints.folder import read_component
from sdmobile.checkpoints.hub import origin_of
from sdmobile.checkpoints.hub_parts import CONTROL, located
from sdmobile.checkpoints.jsonfile import read_json
from sdmobile.errors import CheckpointError, UsageError
from sdmobile.families.apple import controlnet_name
from sdmobile.families.control import MOST, Control, numbered

if TYPE_CHECKING:
    from sdmobile.checkpoints.types import Checkpoint, ComponentInfo
    from sdmobile.families.control import ControlPart

_SAME = ("in_channels", "cross_attention_dim")
_FITS = "the control network must have been made for the checkpoint's UNet"


@dataclass(frozen=True)
class ControlFolder(ScaledPath):
    """A control network as a user names it: a folder in Diffusers' format, and Diffusers' conditioning scale.

    The folder may be the name of one that ships with the package or is on the Hub.
    """

    @classmethod
    def parse(cls, text: str) -> ControlFolder:
        """Reads `FOLDER` or `FOLDER:scale`.

        Raises:
            UsageError: the scale is no finite number.
        """
        return cls(*scaled_path(text, "a control network"))


def with_controls(
    checkpoint: Checkpoint, folders: Sequence[ControlFolder], names: Sequence[str] | None = None
) -> Checkpoint:
    """Returns a checkpoint with control networks: as many more models, and a family whose denoiser takes what they add.

    Args:
        checkpoint: the opened one, which has none.
        folders: config.json with `_class_name`, and weights; or names of such that ship with the package, or are on
            the Hub.
        names: of the networks; None for the folders'.

    Raises:
        CheckpointError: a folder is not whole, or a network was made for another UNet.
        UnsupportedError: the family takes no network of the class, or not these together.
        UsageError: they are too many.
    """
    if len(folders) > MOST:
        raise UsageError(f"at most {MOST} control networks go together", len(folders))
    notes = list(checkpoint.notes)
    components, controls, files = dict(checkpoint.components), [], []
    for index, given in enumerate(folders):
        part, info, more = _read(checkpoint, located(bundled_path(given.path), CONTROL), index)
        name = names[index] if names else _free_name(info.path, controls)
        controls.append(Control(part.kind, name, _checked_maps(checkpoint, part, info), given.scale))
        components[numbered(part.model.name, index)] = info
        notes += more
        files.append((info.path / "config.json", *info.weight_files))
    return replace(
        checkpoint,
        family=checkpoint.family.with_controls(controls),
        components=components,
        notes=tuple(notes),
        control_files=tuple(files),
    )


def _read(checkpoint: Checkpoint, folder: Path, index: int) -> tuple[ControlPart, ComponentInfo, list[str]]:
    """Returns what the family knows of a network's class, the network, and corrections of its configuration."""
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            "a control network is a folder with config.json and weights", folder, "Give a folder in Diffusers' format."
        )
    class_name = read_json(folder / "config.json").get("_class_name")
    part = checkpoint.family.control_part(class_name)
    model = replace(part.model, name=numbered(part.model.name, index))
    return part, *read_component(folder, model, str(class_name))


def _free_name(folder: Path, taken: Sequence[Control]) -> str:
    """Returns the name of a network by its folder, which no app takes for that of another before it."""
    name, used = _name(folder), {controlnet_name(control.name) for control in taken}
    tries = (name, *(f"{name[:60]}_{number}" for number in range(2, MOST + 2)))
    return next(one for one in tries if controlnet_name(one) not in used)


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
