"""Architectures whose structures come with the package, or can be made for it, and empty checkpoints of them.

`data/architectures.json` holds the configurations that the checkpoints were published with. A structure is made of
random weights, so that nothing of a checkpoint but its shapes is needed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

Config = dict[str, Any]
_FILE = Path(__file__).resolve().parents[2] / "data" / "architectures.json"


@dataclass(frozen=True)
class Architecture:
    """One published checkpoint, without its weights.

    Args:
        name: of a file or folder.
        title: for people.
        models: configuration by model.
        schedule: its scheduler's configuration.
        pipeline: `model_index.json`.
        chunks: files that the denoiser is cut into, by target; others one.
        control: configuration of a control network that goes with it.
        bundled: it is a checkpoint of the package itself.
        ships: its structures come with the package; those of others are made by name.
    """

    name: str
    title: str
    models: Mapping[str, Config] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    pipeline: Mapping[str, Any] = field(default_factory=dict)
    chunks: Mapping[str, int] = field(default_factory=dict)
    control: Config | None = None
    bundled: bool = False
    ships: bool = True


def architectures() -> tuple[Architecture, ...]:
    """Returns those that are known, the ones that ship first."""
    known = json.loads(_FILE.read_text("utf-8"))
    return tuple(Architecture(name, **stated) for name, stated in known.items())


def write_hollow(architecture: Architecture, folder: Path) -> Path:
    """Writes a checkpoint of an architecture whose weights are holes in its files: they take no space and read as 0.

    Args:
        architecture: one that is not bundled.
        folder: where it goes.

    Returns:
        The folder.
    """
    from sdmobile.checkpoints.bpe import write_clip_tokenizer

    for name, config in architecture.models.items():
        write_hollow_model(config, folder / name)
    for name, config in architecture.models.items():
        if name.startswith("text_encoder"):
            write_clip_tokenizer(folder / name.replace("text_encoder", "tokenizer"), ("a",), int(config["vocab_size"]))
    _write_json(folder / "scheduler" / "scheduler_config.json", architecture.schedule)
    _write_json(folder / "model_index.json", architecture.pipeline)
    return folder


def write_hollow_model(config: Config, folder: Path) -> Path:
    """Writes one model without weights, as `write_hollow` does, and returns its folder."""
    import diffusers
    import torch
    import transformers

    text = "architectures" in config
    with torch.device("meta"):
        if text:
            (kind,) = config["architectures"]
            module: Any = getattr(transformers, kind)(transformers.CLIPTextConfig(**config))
        else:
            module = getattr(diffusers, config["_class_name"]).from_config(config)
    shapes = {key: tuple(one.shape) for key, one in module.state_dict().items()}
    named = {_stored_name(key, text): shape for key, shape in shapes.items() if not key.endswith("position_ids")}
    _write_json(folder / "config.json", config)
    _write_holes(folder / ("model.safetensors" if text else "diffusion_pytorch_model.safetensors"), named)
    return folder


def _stored_name(key: str, text: bool) -> str:
    prefixed = not text or key.startswith(("text_model.", "text_projection."))
    return key if prefixed else f"text_model.{key}"


def _write_holes(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Writes a safetensors file of float16 tensors that takes the space of its header alone."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + end)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", "utf-8")
