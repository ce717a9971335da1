"""Recognise a single .safetensors or .ckpt file in the original layout of Stable Diffusion 1.x and 2.x."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdmobile.checkpoints import ldm
from sdmobile.checkpoints.assemble import Parts, assemble, component_info
from sdmobile.checkpoints.facts import shapes_of
from sdmobile.checkpoints.headers import TensorInfo, read_header
from sdmobile.checkpoints.jsonfile import read_json
from sdmobile.checkpoints.modules import CLASSES, SUPPORTED
from sdmobile.checkpoints.pickles import read_pickle_header
from sdmobile.checkpoints.schedulers import STABLE_DIFFUSION
from sdmobile.checkpoints.weights import PICKLE_SUFFIXES, normalise
from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families.components import COMPONENTS

if TYPE_CHECKING:
    from pathlib import Path

    from sdmobile.checkpoints.types import Checkpoint, ComponentInfo
    from sdmobile.families.components import ComponentName

Tensors = dict[str, TensorInfo]

# Part of a tensor name -> what the file is. The first match decides.
_OTHERS = (
    ("lora_", "a LoRA, which holds changes to a checkpoint, not a checkpoint"),
    (".lora_", "a LoRA, which holds changes to a checkpoint, not a checkpoint"),
    ("control_model.", "a ControlNet"),
    ("conditioner.embedders.", "Stable Diffusion XL"),
    ("joint_blocks.", "Stable Diffusion 3"),
    ("double_blocks.", "Flux"),
    ("double_stream_modulation", "Flux 2"),
    ("model.diffusion_model.label_emb.", "a UNet with class or image embeddings (SDXL, unCLIP)"),
    ("motion_modules.", "AnimateDiff"),
    ("movq.", "Kandinsky"),
)


def open_single_file(path: Path, tokenizer_dir: Path | None = None) -> Checkpoint:
    """Recognises a single file; what it lacks may lie next to it.

    `tokenizer/` next to the file is used as its tokenizer, `scheduler/scheduler_config.json` as its noise schedule.

    Raises:
        CheckpointError: truncated, corrupt, or one of the three models is missing.
        UnsupportedError: another architecture, named.
    """
    tensors, metadata = _read(path)
    _check_layout(path, tensors)
    notes: list[str] = []
    open_clip = ldm.is_open_clip(tensors)
    if sum(name.startswith("model_ema.") for name in tensors) > 100:
        notes.append("unet: the file has a second, averaged (EMA) copy of the weights; the plain one is used")
    components: dict[str, ComponentInfo] = {}
    for component in COMPONENTS:
        info, found = _component(path, component, tensors, open_clip)
        components[component] = info
        notes += found
    size = _latent_size(metadata, components["vae"].config, open_clip, notes)
    components["unet"].config["sample_size"] = size
    scheduler_file = path.parent / "scheduler" / "scheduler_config.json"
    beside = scheduler_file.is_file()
    tokenizer_dir = tokenizer_dir or _tokenizer_beside(path)
    if tokenizer_dir is None:
        notes.append("tokenizer: a single file has none; put a folder `tokenizer` beside it")
    parts = Parts(
        path=path,
        name=path.stem,
        format="single_file",
        components=components,
        tokenizer_dir=tokenizer_dir,
        scheduler_config=read_json(scheduler_file) if beside else _scheduler(metadata, open_clip, notes),
        license=metadata.get("modelspec.license"),
        notes=notes,
        hashed_files=(path, scheduler_file) if beside else (path,),
    )
    return assemble(parts)


def _read(path: Path) -> tuple[Tensors, dict[str, str]]:
    if path.suffix.lower() in PICKLE_SUFFIXES:
        return read_pickle_header(path), {}
    return read_header(path)


def _check_layout(path: Path, tensors: Tensors) -> None:
    rule = "a single file must hold Stable Diffusion 1.x or 2.x in its original layout"
    for mark, meaning in _OTHERS:
        if any(name.startswith(mark) or (mark in name and mark != "lora_") for name in tensors):
            raise UnsupportedError(rule, f"{path} is {meaning}", SUPPORTED)
    if any(name.startswith(("down_blocks.", "encoder.down_blocks.", "text_model.")) for name in tensors):
        raise CheckpointError(rule, f"{path} is one component of a Diffusers checkpoint", "Give the whole folder.")
    missing = [name for name in COMPONENTS if not any(ldm.belongs(name, key) for key in tensors)]
    if len(missing) == len(COMPONENTS):
        shown = ", ".join(sorted(tensors)[:3])
        raise UnsupportedError(rule, f"{path} has {len(tensors)} tensors such as {shown}", SUPPORTED)
    if missing:
        raise CheckpointError(rule, f"{path} has no {' and no '.join(missing)}", "Use a file that is not pruned of it.")


def _component(
    path: Path, component: ComponentName, tensors: Tensors, open_clip: bool
) -> tuple[ComponentInfo, list[str]]:
    import torch

    stored = {name: info for name, info in tensors.items() if ldm.belongs(component, name) and info.is_float}
    empty = {
        name: torch.empty(info.shape, dtype=getattr(torch, info.dtype), device="meta") for name, info in stored.items()
    }
    try:
        renamed = ldm.convert(component, empty)
    except (KeyError, IndexError, ValueError, AttributeError, ZeroDivisionError) as error:
        value = f"{path}: {component}: {type(error).__name__} {error}"
        raise UnsupportedError("the tensor names must be those of Stable Diffusion 1.x or 2.x", value) from error
    found: Tensors = {}
    for name, value in renamed.items():
        if (key := normalise(name)) is not None:
            found[key] = TensorInfo(tuple(value.shape), str(value.dtype).removeprefix("torch."), path)
    config = ldm.base_config(component, shapes_of(found), open_clip)
    return component_info(component, path, CLASSES[component][0], config, found, (path,))


def _latent_size(metadata: dict[str, str], vae: dict[str, Any], open_clip: bool, notes: list[str]) -> int:
    scale = 2 ** (len(vae.get("block_out_channels", [0] * 4)) - 1)
    width = metadata.get("modelspec.resolution", "").partition("x")[0]
    if width.isdigit() and int(width) >= scale:
        return int(width) // scale
    pixels = 768 if open_clip else 512
    notes.append(f"unet: the file does not say its resolution; {pixels} pixels assumed")
    return pixels // scale


def _scheduler(metadata: dict[str, str], open_clip: bool, notes: list[str]) -> dict[str, Any]:
    stated = metadata.get("modelspec.prediction_type")
    prediction = {"v": "v_prediction", "v_prediction": "v_prediction", "epsilon": "epsilon"}.get(stated or "")
    if prediction is None:
        prediction = "v_prediction" if open_clip else "epsilon"
        if open_clip:
            notes.append(
                "scheduler: the file does not say what the UNet predicts; v_prediction assumed as in the 768-pixel "
                "Stable Diffusion 2.x (512-base predicts epsilon: put scheduler/scheduler_config.json beside the file)"
            )
    return {**STABLE_DIFFUSION, "prediction_type": prediction}


def _tokenizer_beside(path: Path) -> Path | None:
    folder = path.parent / "tokenizer"
    return folder if (folder / "vocab.json").is_file() else None
