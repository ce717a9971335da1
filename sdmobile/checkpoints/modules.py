"""Build the torch module of a component without spending memory on its initial weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdmobile.checkpoints.relu_attention import KEY, declared_normaliser, use_relu_attention
from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    from torch import nn

# What this project can export, by component. The first is what single files are read as.
CLASSES = {
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
}
SUPPORTED = (
    "Supported are pipelines of the Stable Diffusion 1.x/2.x shape: "
    "CLIPTextModel + UNet2DConditionModel + AutoencoderKL."
)


def empty_module(component: str, config: dict[str, Any]) -> nn.Module:
    """Builds a component on torch's meta device, so that no weight takes memory yet.

    Args:
        component: text_encoder, unet or vae.
        config: configuration in Diffusers' or Transformers' keys.

    Raises:
        UnsupportedError: the configuration does not make a model of the class.
    """
    import torch

    try:
        with torch.device("meta"):
            return _build(component, config)
    except (TypeError, ValueError, KeyError, IndexError, NotImplementedError, RuntimeError) as error:
        rule = f"the configuration of {component} must make a {CLASSES[component][0]}"
        raise UnsupportedError(rule, error, SUPPORTED) from error


def _build(component: str, config: dict[str, Any]) -> nn.Module:
    if component == "text_encoder":
        from transformers import CLIPTextConfig, CLIPTextModel

        return CLIPTextModel(CLIPTextConfig.from_dict(config))
    if component == "unet":
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        normaliser = declared_normaliser(config)
        unet = _first(UNet2DConditionModel.from_config({key: value for key, value in config.items() if key != KEY}))
        if normaliser is not None:
            use_relu_attention(unet, normaliser)
        return unet
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return _first(AutoencoderKL.from_config(config))


def _first(result: Any) -> nn.Module:
    """Returns the model of from_config, which is typed as if it could be a tuple."""
    return result
