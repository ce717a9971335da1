"""Put a checkpoint together from its parts, whatever format they came from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sdmobile.checkpoints.facts import correct, derive, shapes_of
from sdmobile.checkpoints.supported import PREDICTION_TYPES, check_component, check_together
from sdmobile.checkpoints.types import Checkpoint, ComponentInfo
from sdmobile.errors import CheckpointError, UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

    from sdmobile.checkpoints.headers import TensorInfo
    from sdmobile.families.components import ComponentName

# Diffusers' default, which older checkpoints rely on.
_SCALING_FACTOR = 0.18215


@dataclass(frozen=True)
class Parts:
    """What a format's reader found; the rest of a Checkpoint follows from it."""

    path: Path
    name: str
    format: Literal["diffusers", "single_file"]
    components: dict[str, ComponentInfo]
    tokenizer_dir: Path | None
    scheduler_config: dict[str, Any]
    license: str | None
    notes: list[str]
    hashed_files: tuple[Path, ...]
    guidance_scale: float | None = None


def component_info(
    name: ComponentName,
    path: Path,
    class_name: str,
    config: dict[str, Any],
    tensors: dict[str, TensorInfo],
    files: tuple[Path, ...],
) -> tuple[ComponentInfo, list[str]]:
    """Returns what one component is, with its configuration corrected from its tensors, and the corrections."""
    weights = {key: info for key, info in tensors.items() if info.is_float}
    if not weights:
        raise CheckpointError("a component must hold weights", f"{path} has none for {name}")
    check_component(name, class_name, config)
    corrected, notes = correct(name, config, derive(name, shapes_of(weights)))
    precisions: Counter[str] = Counter()
    for info in weights.values():
        precisions[info.dtype] += info.elements
    if len(precisions) > 1:
        notes.append(f"{name}: weights are stored in several precisions: {', '.join(sorted(precisions))}")
    info = ComponentInfo(
        name=name,
        path=path,
        class_name=class_name,
        config=corrected,
        parameters=sum(info.elements for info in weights.values()),
        dtype=precisions.most_common(1)[0][0],
        bytes=sum(info.bytes for info in weights.values()),
        weight_files=files,
    )
    return info, notes


def assemble(parts: Parts) -> Checkpoint:
    """Checks that the components fit each other and returns the checkpoint.

    Raises:
        CheckpointError: they do not fit, or a configuration lacks what is needed.
        UnsupportedError: a prediction type or a UNet for another task.
    """
    notes = list(parts.notes)
    unet, vae, text = (parts.components[name].config for name in ("unet", "vae", "text_encoder"))
    check_together(unet, vae, text)
    scale = 2 ** (len(_required(vae, "block_out_channels", "vae")) - 1)
    return Checkpoint(
        path=parts.path,
        name=parts.name,
        format=parts.format,
        components=parts.components,
        tokenizer_dir=parts.tokenizer_dir,
        scheduler_config=parts.scheduler_config,
        latent_channels=vae["latent_channels"],
        latent_size=_latent_size(unet, vae, scale, notes),
        vae_scale_factor=scale,
        scaling_factor=_scaling_factor(vae, notes),
        context_length=_required(text, "max_position_embeddings", "text_encoder"),
        context_dim=text["hidden_size"],
        prediction_type=_prediction_type(parts.scheduler_config, notes),
        license=parts.license,
        guidance_scale=parts.guidance_scale,
        notes=tuple(notes),
        hashed_files=parts.hashed_files,
    )


def _required(config: dict[str, Any], key: str, component: str) -> Any:
    if not config.get(key):
        raise CheckpointError(f"the configuration of {component} must say {key}, or its tensors must", config.get(key))
    return config[key]


def _latent_size(unet: dict[str, Any], vae: dict[str, Any], scale: int, notes: list[str]) -> int:
    size = unet.get("sample_size")
    if isinstance(size, list | tuple) and size:
        if len(set(size)) > 1:
            notes.append(f"unet: sample_size is {list(size)}; the larger side is used for both")
        size = max(size)
    if isinstance(size, int) and size > 0:
        return size
    image = vae.get("sample_size")
    guess = image // scale if isinstance(image, int) and image >= scale else 64
    notes.append(f"unet: config does not say sample_size; {guess} latent cells ({guess * scale} pixels) assumed")
    return guess


def _scaling_factor(vae: dict[str, Any], notes: list[str]) -> float:
    factor = vae.get("scaling_factor")
    if isinstance(factor, int | float) and factor > 0:
        return float(factor)
    notes.append(f"vae: config does not say scaling_factor; {_SCALING_FACTOR} assumed")
    return _SCALING_FACTOR


def _prediction_type(scheduler: dict[str, Any], notes: list[str]) -> str:
    prediction = scheduler.get("prediction_type")
    if prediction is None:
        notes.append("scheduler: config does not say prediction_type; epsilon assumed, as Diffusers does")
        return "epsilon"
    if prediction not in PREDICTION_TYPES:
        known = ", ".join(PREDICTION_TYPES)
        raise UnsupportedError("the prediction type must be a known one", prediction, f"Known are {known}.")
    return str(prediction)
