"""Rename Diffusers' tensors to the original single-file layout: the inverse of what the package does."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Tensors = dict[str, "torch.Tensor"]

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_to_ldm(state: Tensors, layers: int) -> Tensors:
    """Returns a UNet's tensors under `model.diffusion_model.`."""
    attending = {int(name.split(".")[1]) for name in state if re.match(r"up_blocks\.\d+\.attentions", name)}
    return {"model.diffusion_model." + _unet_name(name, layers, attending): value for name, value in state.items()}


def xl_unet_to_ldm(state: Tensors, layers: int) -> Tensors:
    """Returns a UNet's tensors as in Stable Diffusion XL, with its second embedding."""
    numbers = {"add_embedding.linear_1": 0, "add_embedding.linear_2": 2}
    added = {name: value for name, value in state.items() if name.startswith("add_embedding.")}
    result = unet_to_ldm({name: value for name, value in state.items() if name not in added}, layers)
    for name, value in added.items():
        layer, _, kind = name.rpartition(".")
        result[f"model.diffusion_model.label_emb.0.{numbers[layer]}.{kind}"] = value
    return result


def _unet_name(name: str, layers: int, attending: set[int]) -> str:
    for new, old in _ENDS.items():
        if name.startswith(new + "."):
            return name.replace(new, old, 1)
    parts = name.split(".")
    if parts[0] == "mid_block":
        index = {"resnets": 2 * int(parts[2]), "attentions": 1}[parts[1]]
        return f"middle_block.{index}." + _rest(parts[1], parts[3:])
    side, level, kind, item = parts[0], int(parts[1]), parts[2], int(parts[3])
    if kind == "downsamplers":
        return f"input_blocks.{1 + level * (layers + 1) + layers}.0.op.{parts[-1]}"
    if kind == "upsamplers":
        slot = 2 if level in attending else 1
        return f"output_blocks.{level * (layers + 1) + layers}.{slot}.conv.{parts[-1]}"
    block = level * (layers + 1) + item
    prefix = f"input_blocks.{block + 1}" if side == "down_blocks" else f"output_blocks.{block}"
    return f"{prefix}.{0 if kind == 'resnets' else 1}." + _rest(kind, parts[4:])


def _rest(kind: str, parts: list[str]) -> str:
    return ".".join([_RESNET[parts[0]], *parts[1:]] if kind == "resnets" else parts)


def vae_to_ldm(state: Tensors, levels: int) -> Tensors:
    """Returns a VAE's tensors under `first_stage_model.`, its attention as 1×1 convolutions."""
    result: Tensors = {}
    for name, value in state.items():
        if "attentions" in name and "to_" in name and name.endswith("weight"):
            value = value[:, :, None, None].contiguous()
        result["first_stage_model." + _vae_name(name, levels)] = value
    return result


def _vae_name(name: str, levels: int) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
    if "mid_block.attentions.0." in name:
        name = name.replace("mid_block.attentions.0", "mid.attn_1")
        for new, old in _VAE_ATTENTION.items():
            name = name.replace(f".{new}.", f".{old}.")
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda match: f"up.{levels - 1 - int(match[1])}.block", name)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda match: f"up.{levels - 1 - int(match[1])}.upsample", name)


def clip_to_ldm(state: Tensors) -> Tensors:
    """Returns a CLIP text encoder's tensors as in Stable Diffusion 1.x."""
    return {"cond_stage_model.transformer.text_model." + name: value for name, value in state.items()}


def second_clip_to_ldm(state: Tensors, layers: int) -> Tensors:
    """Returns a CLIP text encoder's tensors, its projection's too, as the second of Stable Diffusion XL."""
    prefix, more = "conditioner.embedders.1.model.", f"resblocks.{layers}."
    whole = clip_to_open_clip(state, layers)
    result = {name.replace("cond_stage_model.model.", prefix): value for name, value in whole.items()}
    result[f"{prefix}text_projection"] = state["text_projection.weight"].T
    return {name: value for name, value in result.items() if more not in name}


def clip_to_open_clip(state: Tensors, layers: int) -> Tensors:
    """Returns a CLIP text encoder's tensors as in Stable Diffusion 2.x, with one more block that is not used."""
    import torch

    ends = {
        "embeddings.position_embedding.weight": "positional_embedding",
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    result = {old: state[new] for new, old in ends.items()}
    for layer in range(layers):
        source, target = f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            parts = [state[f"{source}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            result[f"{target}attn.in_proj_{kind}"] = torch.cat(parts)
            result[f"{target}attn.out_proj.{kind}"] = state[f"{source}self_attn.out_proj.{kind}"]
            result[f"{target}ln_1.{kind}"] = state[f"{source}layer_norm1.{kind}"]
            result[f"{target}ln_2.{kind}"] = state[f"{source}layer_norm2.{kind}"]
            result[f"{target}mlp.c_fc.{kind}"] = state[f"{source}mlp.fc1.{kind}"]
            result[f"{target}mlp.c_proj.{kind}"] = state[f"{source}mlp.fc2.{kind}"]
    unused = {
        name.replace(f"resblocks.{layers - 1}.", f"resblocks.{layers}."): torch.zeros_like(value)
        for name, value in result.items()
        if f"resblocks.{layers - 1}." in name
    }
    width = state["embeddings.token_embedding.weight"].shape[-1]
    extra = {"text_projection": torch.eye(width), "logit_scale": torch.zeros(())}
    return {"cond_stage_model.model." + name: value for name, value in (result | unused | extra).items()}
