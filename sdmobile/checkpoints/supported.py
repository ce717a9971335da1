"""Which architectures can be exported, and what to say about the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdmobile.checkpoints.modules import CLASSES, SUPPORTED
from sdmobile.errors import CheckpointError, UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

_RULE = "the architecture must be one that sdmobile exports"
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")

# UNet options that add inputs or change blocks, and the value that means "absent".
_UNET_OPTIONS: dict[str, tuple[Any, str]] = {
    "addition_embed_type": (None, "additional embeddings (SDXL, Kandinsky)"),
    "class_embed_type": (None, "class embeddings"),
    "num_class_embeds": (None, "class embeddings"),
    "encoder_hid_dim": (None, "a projection of the text features (Kandinsky, DeepFloyd IF)"),
    "encoder_hid_dim_type": (None, "a projection of the text features (Kandinsky, DeepFloyd IF)"),
    "time_cond_proj_dim": (None, "guidance embedding (latent consistency models)"),
    "dual_cross_attention": (False, "dual cross-attention (Versatile Diffusion)"),
    "attention_type": ("default", "gated attention (GLIGEN)"),
}


def check_pipeline(index: dict[str, Any], path: Path) -> None:
    """Raises unless a `model_index.json` names exactly the three supported classes.

    Raises:
        CheckpointError: the file does not describe a pipeline.
        UnsupportedError: another architecture, named.
    """
    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str):
        raise CheckpointError("model_index.json must name its pipeline in _class_name", path / "model_index.json")
    models = {name: entry[1] for name, entry in index.items() if _is_entry(entry)}
    for extra in ("text_encoder_2", "transformer", "controlnet", "prior", "movq", "image_encoder", "motion_adapter"):
        if extra in models:
            raise UnsupportedError(_RULE, f"{pipeline} with {extra} = {models[extra]}", SUPPORTED)
    for component, classes in CLASSES.items():
        if component not in models:
            raise UnsupportedError(_RULE, f"{pipeline} has no {component}", SUPPORTED)
        if models[component] not in classes:
            raise UnsupportedError(_RULE, f"{pipeline} with {component} = {models[component]}", SUPPORTED)


def check_component(component: str, class_name: str, config: dict[str, Any]) -> None:
    """Raises where a configuration asks for something beyond the Stable Diffusion shape.

    Raises:
        UnsupportedError: naming the option and its value.
    """
    if component == "unet":
        for key, (absent, meaning) in _UNET_OPTIONS.items():
            if config.get(key, absent) != absent:
                raise UnsupportedError(_RULE, f"{class_name} with {key} = {config[key]}: {meaning}", SUPPORTED)
    if component == "vae":
        for key in ("shift_factor", "latents_mean", "latents_std"):
            if config.get(key) is not None:
                raise UnsupportedError(_RULE, f"{class_name} with {key}: shifted latents (SD3, Flux)", SUPPORTED)


def check_together(unet: dict[str, Any], vae: dict[str, Any], text: dict[str, Any]) -> None:
    """Raises unless the components fit each other.

    Args:
        unet: configuration of the UNet; likewise vae and text.

    Raises:
        UnsupportedError: an inpainting, depth or editing UNet, which has more input channels than a latent.
        CheckpointError: the widths contradict each other.
    """
    latent, inputs, outputs = vae.get("latent_channels"), unet.get("in_channels"), unet.get("out_channels")
    if isinstance(inputs, int) and isinstance(latent, int) and inputs > latent:
        kind = {2 * latent + 1: "inpainting", latent + 1: "depth-to-image", 2 * latent: "image editing or upscaling"}
        raise UnsupportedError(
            _RULE,
            f"a UNet with {inputs} input channels for {latent} latent channels ({kind.get(inputs, 'unknown')})",
            SUPPORTED,
        )
    if inputs != latent or outputs != latent:
        raise CheckpointError(
            "UNet and VAE must have the same latent channels", f"UNet {inputs} in, {outputs} out; VAE {latent}"
        )
    if unet.get("cross_attention_dim") != text.get("hidden_size"):
        raise CheckpointError(
            "the UNet's cross-attention must have the width of the text encoder",
            f"UNet {unet.get('cross_attention_dim')}, text encoder {text.get('hidden_size')}",
        )


def _is_entry(entry: object) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str)
