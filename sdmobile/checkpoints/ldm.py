"""The original single-file layout (CompVis and Stability releases) in terms of Diffusers' names.

The renaming itself is Diffusers' own (`diffusers.loaders.single_file_utils`); what is added here is that the
configuration it needs is counted from the tensor names, so that nothing has to be downloaded.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from sdmobile.families.components import ComponentName

UNET = "model.diffusion_model."
VAE = "first_stage_model."
CLIP = "cond_stage_model.transformer."
OPEN_CLIP = "cond_stage_model.model."
PREFIXES: dict[str, tuple[str, ...]] = {"text_encoder": (CLIP, OPEN_CLIP), "unet": (UNET,), "vae": (VAE,)}

# Both CLIP and OpenCLIP text towers, and the attention of Stable Diffusion 2.x, have 64 channels per head.
_HEAD_CHANNELS = 64
# Stable Diffusion 1.x has 8 heads at every level; Diffusers calls that number attention_head_dim.
_SD1_HEADS = 8


def belongs(component: ComponentName, name: str) -> bool:
    """Returns whether a stored tensor is part of a component."""
    return name.startswith(PREFIXES[component])


def convert(component: ComponentName, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Renames the tensors of one component to Diffusers' names.

    Args:
        component: text_encoder, unet or vae.
        tensors: the component's tensors by their stored names; they may be on torch's meta device.
    """
    from diffusers.loaders import single_file_utils as diffusers_ldm

    if component == "unet":
        layers = {"layers_per_block": _layers_per_block(tensors)}
        return diffusers_ldm.convert_ldm_unet_checkpoint(tensors, layers)
    if component == "vae":
        levels = [None] * _count(tensors, VAE + "encoder.down.")
        known = {name: value for name, value in tensors.items() if not name.startswith(VAE + "loss.")}
        return diffusers_ldm.convert_ldm_vae_checkpoint(known, {"down_block_types": levels, "up_block_types": levels})
    if is_open_clip(tensors):
        return _convert_open_clip(tensors)
    return diffusers_ldm.convert_ldm_clip_checkpoint(tensors)


def base_config(component: ComponentName, shapes: dict[str, tuple[int, ...]], open_clip: bool) -> dict[str, Any]:
    """Returns what shapes cannot tell but the layout implies.

    Args:
        component: text_encoder, unet or vae.
        shapes: by Diffusers' or Transformers' name without the `text_model.` prefix.
        open_clip: whether the text encoder is OpenCLIP's, as in Stable Diffusion 2.x.
    """
    if component == "text_encoder":
        width = shapes.get("embeddings.token_embedding.weight", (0, 0))[-1]
        heads = max(1, width // _HEAD_CHANNELS)
        activation = "gelu" if open_clip else "quick_gelu"
        tokens = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 1}
        return {"num_attention_heads": heads, "hidden_act": activation, "projection_dim": width, **tokens}
    if component == "vae":
        return {"norm_num_groups": 32, "scaling_factor": 0.18215}
    widths = [shape[0] for name, shape in sorted(shapes.items()) if re.fullmatch(_FIRST_CONV, name)]
    linear = any(name.endswith(".proj_in.weight") and len(shape) == 2 for name, shape in shapes.items())
    heads = [max(1, width // _HEAD_CHANNELS) for width in widths] if linear else _SD1_HEADS
    return {"attention_head_dim": heads, "norm_num_groups": 32}


_FIRST_CONV = r"down_blocks\.\d+\.resnets\.0\.conv1\.weight"


def is_open_clip(names: Any) -> bool:
    """Returns whether the text encoder is OpenCLIP's."""
    return any(name.startswith(OPEN_CLIP) for name in names)


def _layers_per_block(tensors: dict[str, torch.Tensor]) -> int:
    blocks = _count(tensors, UNET + "input_blocks.")
    down = (index for index in range(1, blocks) if f"{UNET}input_blocks.{index}.0.op.weight" in tensors)
    return next(down, blocks) - 1


def _convert_open_clip(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    # Stable Diffusion 2.x conditions on the last but one block, so the last one is not part of the model.
    last = f"{OPEN_CLIP}transformer.resblocks.{_count(tensors, OPEN_CLIP + 'transformer.resblocks.') - 1}."
    extra = ("logit_scale", "attn_mask", "text_projection")
    used = {
        name: value
        for name, value in tensors.items()
        if not name.startswith(last) and name.removeprefix(OPEN_CLIP) not in extra
    }
    width = tensors[OPEN_CLIP + "token_embedding.weight"].shape[-1]
    model: Any = SimpleNamespace(config=SimpleNamespace(hidden_size=width))
    return convert_open_clip_checkpoint(model, used, prefix=OPEN_CLIP)


def _count(names: Any, prefix: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return max((int(match[1]) + 1 for name in names if (match := pattern.match(name))), default=0)
