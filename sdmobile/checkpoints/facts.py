"""What the shapes of a component's tensors say about its configuration."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdmobile.checkpoints.headers import TensorInfo

Shapes = dict[str, tuple[int, ...]]


def shapes_of(tensors: Mapping[str, TensorInfo]) -> Shapes:
    """Returns the shape of each tensor by name."""
    return {name: info.shape for name, info in tensors.items()}


def derive(component: str, shapes: Shapes) -> dict[str, Any]:
    """Returns the configuration keys that a component's shapes determine, in Diffusers' names.

    Args:
        component: text_encoder, unet or vae.
        shapes: by normalised Diffusers or Transformers name; a tensor that is missing determines nothing.
    """
    return {"text_encoder": _text_encoder, "unet": _unet, "vae": _vae}[component](shapes)


def correct(component: str, config: dict[str, Any], derived: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Returns the configuration with what the tensors determine, and a note per contradiction."""
    corrected = dict(config)
    notes: list[str] = []
    for key, value in derived.items():
        stated = config.get(key)
        if _same(stated, value):
            continue
        corrected[key] = value
        if stated is not None:
            notes.append(f"{component}: config says {key} = {stated}, the tensors say {value}; the tensors were used")
    return corrected, notes


def count_blocks(shapes: Shapes, prefix: str) -> int:
    """Returns one more than the largest index that follows a prefix such as "down_blocks." (0 if none)."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return max((int(match[1]) + 1 for name in shapes if (match := pattern.match(name))), default=0)


def _same(stated: Any, derived: Any) -> bool:
    if isinstance(derived, list) and isinstance(stated, int):
        return all(item == stated for item in derived)
    if isinstance(derived, int) and isinstance(stated, (list, tuple)):
        return all(item == derived for item in stated)
    return (list(stated) if isinstance(stated, tuple) else stated) == derived


def _text_encoder(shapes: Shapes) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if (token := shapes.get("embeddings.token_embedding.weight")) and len(token) == 2:
        facts |= {"vocab_size": token[0], "hidden_size": token[1]}
    if (position := shapes.get("embeddings.position_embedding.weight")) and len(position) == 2:
        facts["max_position_embeddings"] = position[0]
    if layers := count_blocks(shapes, "encoder.layers."):
        facts["num_hidden_layers"] = layers
    if (inner := shapes.get("encoder.layers.0.mlp.fc1.weight")) and len(inner) == 2:
        facts["intermediate_size"] = inner[0]
    return facts


def _unet(shapes: Shapes) -> dict[str, Any]:
    facts = _ends(shapes, "conv_in.weight", "conv_out.weight")
    levels = count_blocks(shapes, "down_blocks.")
    widths = [shapes.get(f"down_blocks.{level}.resnets.0.conv1.weight", (0,))[0] for level in range(levels)]
    if not levels or not all(widths):
        return facts
    facts["block_out_channels"] = widths
    facts["layers_per_block"] = count_blocks(shapes, "down_blocks.0.resnets.")
    attends = [f"down_blocks.{level}.attentions.0.norm.weight" in shapes for level in range(levels)]
    facts["down_block_types"] = ["CrossAttnDownBlock2D" if one else "DownBlock2D" for one in attends]
    attends = [f"up_blocks.{level}.attentions.0.norm.weight" in shapes for level in range(levels)]
    facts["up_block_types"] = ["CrossAttnUpBlock2D" if one else "UpBlock2D" for one in attends]
    contexts = {shape[-1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight") and shape}
    if len(contexts) == 1:
        facts["cross_attention_dim"] = contexts.pop()
    projections = {len(shape) for name, shape in shapes.items() if name.endswith(".proj_in.weight")}
    if len(projections) == 1:
        facts["use_linear_projection"] = projections.pop() == 2
    return facts


def _vae(shapes: Shapes) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if (image := shapes.get("encoder.conv_in.weight")) and len(image) == 4:
        facts["in_channels"] = image[1]
    if (image := shapes.get("decoder.conv_out.weight")) and len(image) == 4:
        facts["out_channels"] = image[0]
    if (latent := shapes.get("decoder.conv_in.weight")) and len(latent) == 4:
        facts["latent_channels"] = latent[1]
    facts["use_quant_conv"] = "quant_conv.weight" in shapes
    facts["use_post_quant_conv"] = "post_quant_conv.weight" in shapes
    levels = count_blocks(shapes, "encoder.down_blocks.")
    widths = [shapes.get(f"encoder.down_blocks.{level}.resnets.0.conv1.weight", (0,))[0] for level in range(levels)]
    if levels and all(widths):
        facts["block_out_channels"] = widths
        facts["layers_per_block"] = count_blocks(shapes, "encoder.down_blocks.0.resnets.")
        facts["down_block_types"] = ["DownEncoderBlock2D"] * levels
        facts["up_block_types"] = ["UpDecoderBlock2D"] * levels
        facts["mid_block_add_attention"] = "decoder.mid_block.attentions.0.to_q.weight" in shapes
    return facts


def _ends(shapes: Shapes, first: str, last: str) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if (shape := shapes.get(first)) and len(shape) == 4:
        facts["in_channels"] = shape[1]
    if (shape := shapes.get(last)) and len(shape) == 4:
        facts["out_channels"] = shape[0]
    return facts
