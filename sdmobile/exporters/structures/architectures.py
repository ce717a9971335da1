"""Architectures whose structures come with the package, or can be made for it, and empty checkpoints of them.

The configurations are those that the checkpoints were published with; a structure is made of random weights, so that
nothing of a checkpoint but its shapes is needed.
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
_VOCABULARY = 49408
_PIPELINE: Config = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
_CLIP_L: Config = {
    "architectures": ["CLIPTextModel"],
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "projection_dim": 768,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
    "vocab_size": _VOCABULARY,
}
_CLIP_H: Config = {
    **_CLIP_L,
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "projection_dim": 512,
}
_CLIP_G: Config = {
    **_CLIP_L,
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
}
_UNET: Config = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
_UNET_2: Config = {
    **_UNET,
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
_UNET_XL: Config = {
    **_UNET,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
}
_VAE: Config = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "scaling_factor": 0.18215,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
_CONTROLNET: Config = {
    **{key: value for key, value in _UNET.items() if key not in ("center_input_sample", "out_channels", "sample_size")},
    "_class_name": "ControlNetModel",
    "class_embed_type": None,
    "conditioning_embedding_out_channels": [16, 32, 96, 256],
    "controlnet_conditioning_channel_order": "rgb",
    "projection_class_embeddings_input_dim": None,
}
del _CONTROLNET["mid_block_scale_factor"], _CONTROLNET["up_block_types"]
_SCHEDULE: Config = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
_TRAILING: Config = {
    **_SCHEDULE,
    "_class_name": "EulerDiscreteScheduler",
    "prediction_type": "epsilon",
    "timestep_spacing": "trailing",
}


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
    schedule: Mapping[str, Any] = field(default_factory=lambda: _SCHEDULE)
    pipeline: Mapping[str, Any] = field(default_factory=lambda: _PIPELINE)
    chunks: Mapping[str, int] = field(default_factory=dict)
    control: Config | None = None
    bundled: bool = False
    ships: bool = True


_SD15 = {"text_encoder": _CLIP_L, "unet": _UNET, "vae": _VAE}
_V_PREDICTION = {**_SCHEDULE, "_class_name": "DDIMScheduler", "prediction_type": "v_prediction", "clip_sample": False}
ARCHITECTURES = (
    Architecture("shapes-64", "shapes-64", bundled=True),
    Architecture("shapes-64-mobile", "shapes-64-mobile", bundled=True),
    Architecture("sd15", "Stable Diffusion 1.5, 512×512", _SD15),
    Architecture(
        "sd15-inpainting",
        "Stable Diffusion 1.5 inpainting, 512×512",
        {**_SD15, "unet": {**_UNET, "in_channels": 9}},
        pipeline={**_PIPELINE, "_class_name": "StableDiffusionInpaintPipeline"},
        ships=False,
    ),
    Architecture(
        "sd15-controlnet", "Stable Diffusion 1.5 with a ControlNet, 512×512", _SD15, control=_CONTROLNET, ships=False
    ),
    Architecture(
        "sd21",
        "Stable Diffusion 2.1, 768×768",
        {"text_encoder": _CLIP_H, "unet": {**_UNET_2, "sample_size": 96}, "vae": {**_VAE, "sample_size": 768}},
        _V_PREDICTION,
        ships=False,
    ),
    Architecture(
        "sd-turbo",
        "SD-Turbo, 512×512",
        {"text_encoder": _CLIP_H, "unet": _UNET_2, "vae": {**_VAE, "sample_size": 768}},
        _TRAILING,
        ships=False,
    ),
    Architecture(
        "sdxl",
        "Stable Diffusion XL, 1024×1024",
        {
            "text_encoder": _CLIP_L,
            "text_encoder_2": _CLIP_G,
            "unet": _UNET_XL,
            "vae": {**_VAE, "sample_size": 1024, "scaling_factor": 0.13025},
        },
        {**_TRAILING, "timestep_spacing": "leading"},
        {
            **_PIPELINE,
            "_class_name": "StableDiffusionXLPipeline",
            "force_zeros_for_empty_prompt": True,
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
        },
        chunks={"ios": 2, "android": 4},
        ships=False,
    ),
)


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
    for name in architecture.models:
        if name.startswith("text_encoder"):
            write_clip_tokenizer(folder / name.replace("text_encoder", "tokenizer"), ("a",), _VOCABULARY)
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
