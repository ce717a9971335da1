"""Another autoencoder in the place of a checkpoint's own: a Diffusers folder, or a single file in the original layout.

folder with config.json and weights      its class by `_class_name`, TAESD's (AutoencoderTiny) included
first_stage_model.encoder.down.0. …      a single file as part of a checkpoint
encoder.down.0. …                        the same without the prefix, as on Civitai
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sdmobile.checkpoints.folder import read_component
from sdmobile.checkpoints.hub import name_of
from sdmobile.checkpoints.jsonfile import read_json
from sdmobile.checkpoints.single_file import read_part, unused_tensors
from sdmobile.checkpoints.weights import PICKLE_SUFFIXES, read_headers
from sdmobile.errors import CheckpointError, UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

    from sdmobile.checkpoints.assemble import Parts
    from sdmobile.checkpoints.types import ComponentInfo
    from sdmobile.families.component import Model

_RULE = "--vae must be a Diffusers folder of an autoencoder, or a single file in the original layout"
_CHANNELS = "the autoencoder must have the latent channels that the denoiser was trained for"


def with_vae(parts: Parts, path: Path) -> Parts:
    """Returns the parts of a checkpoint with another autoencoder.

    Args:
        parts: with the checkpoint's own.
        path: what the user gives.

    Raises:
        CheckpointError: it is missing or damaged, or has other latent channels.
        UnsupportedError: of a class that the family does not take.
    """
    model = parts.family.model(parts.family.decoder.model)
    own = parts.components[model.name]
    info, notes = _from_folder(path, model) if path.is_dir() else _from_file(path, model)
    wanted, given = (one.config.get("latent_channels") for one in (own, info))
    if wanted != given:
        raise CheckpointError(f"{_CHANNELS}, {wanted}", f"{path} has {given}", "Give one for this kind of model.")
    files = (info.path / "config.json", *info.weight_files) if info.path.is_dir() else info.weight_files
    note = f"{model.name}: {name_of(path)} ({info.class_name}) takes the place of the checkpoint's own (--vae)"
    return replace(
        parts,
        components={**parts.components, model.name: info},
        notes=[*(line for line in parts.notes if not line.startswith(f"{model.name}: ")), note, *notes],
        vae_files=files,
    )


def _from_folder(path: Path, model: Model) -> tuple[ComponentInfo, list[str]]:
    folder = path if (path / "config.json").is_file() else path / model.name
    if not (folder / "config.json").is_file():
        raise CheckpointError(_RULE, f"{path} has no config.json")
    class_name = read_json(folder / "config.json").get("_class_name")
    if class_name not in model.classes:
        raise UnsupportedError(f"the autoencoder must be of {' or '.join(model.classes)}", f"{folder}: {class_name}")
    return read_component(folder, model, str(class_name))


def _from_file(path: Path, model: Model) -> tuple[ComponentInfo, list[str]]:
    if path.suffix.lower() not in (".safetensors", *PICKLE_SUFFIXES):
        raise CheckpointError(_RULE, path if path.exists() else f"{path} does not exist")
    headers = read_headers((path,))
    if not model.prefixes:
        raise UnsupportedError("--vae must be a Diffusers folder for this kind of model", path)
    names = list(headers.tensors)
    prefix = "" if any(name.startswith(model.prefixes) for name in names) else model.prefixes[0]
    tensors = {prefix + name: info for name, info in headers.tensors.items()}
    if not any(name.startswith(f"{model.prefixes[0]}decoder.up.") for name in tensors):
        shown = ", ".join(sorted(names)[:3])
        fix = "Names of Diffusers or of TAESD: give the folder with config.json."
        raise CheckpointError(_RULE, f"{path} has {len(names)} tensors such as {shown}", fix)
    info, corrections, used = read_part(path, model, tensors)
    notes = [f"{model.name}: {note}" for note in headers.notes]
    notes += unused_tensors(path, (model,), list(tensors), used)
    return info, [*notes, *corrections]
