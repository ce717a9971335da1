"""Small models of every part of a diffusion pipeline beyond Stable Diffusion 1.5's four."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

Inputs = dict[str, torch.Tensor]
Job = tuple[nn.Module, Inputs]
_TEXT: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
    "bos_token_id": 97,
    "eos_token_id": 98,
    "pad_token_id": 0,
}
_UNET: dict[str, Any] = {"block_out_channels": (32, 64), "layers_per_block": 1}


class _Wrapper(nn.Module):
    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module


class _ControlNet(_Wrapper):
    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor, image: torch.Tensor
    ) -> torch.Tensor:
        down, middle = self.module(sample, timestep, text, image, return_dict=False)
        return torch.cat([x.flatten(1) for x in (*down, middle)], 1)


def controlnet() -> Job:
    """A ControlNet, whose residuals are its output."""
    from diffusers import ControlNetModel

    module = ControlNetModel(
        **_UNET,
        cross_attention_dim=32,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        conditioning_embedding_out_channels=(16, 32),
    )
    for parameter in module.parameters():
        if not parameter.any():  # a fresh ControlNet adds nothing
            nn.init.normal_(parameter, std=0.05)
    inputs = _latents(32) | {"image": torch.randn(2, 3, 32, 32)}
    return _ControlNet(module), inputs


class _Controlled(_Wrapper):
    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor, a: torch.Tensor, b: torch.Tensor
    ) -> torch.Tensor:
        residuals = (a, a, b, torch.cat([b, b], 1))
        middle = torch.cat([b, b], 1)
        return self.module(
            sample,
            timestep,
            text,
            down_block_additional_residuals=residuals,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]


def controlled_unet() -> Job:
    """A UNet that takes the residuals of a ControlNet."""
    from diffusers import UNet2DConditionModel

    module = UNet2DConditionModel(
        **_UNET,
        cross_attention_dim=32,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    return _Controlled(module), _latents(32) | {"a": torch.randn(2, 32, 16, 16), "b": torch.randn(2, 32, 8, 8)}


class _SDXL(_Wrapper):
    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        text: torch.Tensor,
        time_ids: torch.Tensor,
        text_embeds: torch.Tensor,
    ) -> torch.Tensor:
        added = {"text_embeds": text_embeds, "time_ids": time_ids}
        return self.module(sample, timestep, text, added_cond_kwargs=added, return_dict=False)[0]


def sdxl_unet() -> Job:
    """A UNet in the style of SDXL: linear projections, several blocks per level, size and pooled text as conditions."""
    from diffusers import UNet2DConditionModel

    per_level: dict[str, Any] = {"attention_head_dim": (2, 4), "transformer_layers_per_block": (1, 2)}
    module = UNet2DConditionModel(
        **_UNET,
        **per_level,
        cross_attention_dim=48,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=32 + 6 * 8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    conditions = {"time_ids": 100 * torch.rand(2, 6), "text_embeds": torch.randn(2, 32)}
    return _SDXL(module), _latents(48) | conditions


class _Text(_Wrapper):
    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        output = self.module(input_ids.to(torch.int64), output_hidden_states=True)
        pooled = output.text_embeds if "text_embeds" in output else output.pooler_output
        return torch.cat([output.hidden_states[-2].flatten(1), pooled], 1)


def clip_text() -> Job:
    """CLIP's text encoder: quick GELU, pooled output."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return _Text(CLIPTextModel(CLIPTextConfig(**_TEXT, hidden_act="quick_gelu"))), _ids()


def openclip_text() -> Job:
    """OpenCLIP's text encoder as SDXL has it: GELU, projection, last layer but one."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(**_TEXT, hidden_act="gelu", projection_dim=24)
    return _Text(CLIPTextModelWithProjection(config)), _ids()


class _SafetyChecker(_Wrapper):
    """The checker's own arithmetic on a copy of the images, since Core ML cannot change an input."""

    def forward(self, pixels: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        module = self.module
        features = nn.functional.normalize(module.visual_projection(module.vision_model(pixels)[1]))
        special = features @ nn.functional.normalize(module.special_care_embeds).t()
        concepts = features @ nn.functional.normalize(module.concept_embeds).t()
        care = torch.any(special - module.special_care_embeds_weights > 0, dim=1)
        scores = concepts - module.concept_embeds_weights + (care * 0.01).unsqueeze(1)
        flags = torch.any(scores > 0, dim=1)
        cleaned = images.clone()
        cleaned[flags] = 0.0
        return torch.cat([cleaned.flatten(1), scores], 1)


def safety_checker() -> Job:
    """CLIP's vision model, compared with concepts; flagged pictures are blackened by a masked write."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    }
    module = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, text_config=_TEXT, projection_dim=24))
    nn.init.normal_(module.concept_embeds)
    nn.init.normal_(module.special_care_embeds)
    inputs = {"pixels": torch.randn(2, 3, 32, 32), "images": torch.rand(2, 32, 32, 3)}
    with torch.no_grad():  # thresholds between the scores of the two pictures
        nearest = _SafetyChecker(module.eval())(*inputs.values())[:, -len(module.concept_embeds_weights) :].amax(1)
        module.concept_embeds_weights += nearest.mean()
    return _SafetyChecker(module), inputs


class _Autoencoder(_Wrapper):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.module.decode(self.module.encode(image).latents).sample


def tiny_autoencoder() -> Job:
    """The small autoencoder (TAESD) that previews use."""
    from diffusers import AutoencoderTiny

    blocks: dict[str, Any] = {
        f"{part}_{key}": value for part in ("encoder", "decoder") for key, value in (("block_out_channels", (16, 16)),)
    }
    module = AutoencoderTiny(**blocks, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1))
    return _Autoencoder(module), {"image": torch.rand(1, 3, 32, 32)}


JOBS = {
    "controlnet": controlnet,
    "controlled_unet": controlled_unet,
    "sdxl_unet": sdxl_unet,
    "clip_text": clip_text,
    "openclip_text": openclip_text,
    "safety_checker": safety_checker,
    "tiny_autoencoder": tiny_autoencoder,
}


def _latents(text: int) -> Inputs:
    return {
        "sample": torch.randn(2, 4, 16, 16),
        "timestep": torch.tensor([37.0, 37.0]),
        "text": torch.randn(2, 7, text),
    }


def _ids() -> Inputs:
    ids = torch.randint(1, 96, (2, 16)).int()
    ids[:, -1] = _TEXT["eos_token_id"]
    return {"input_ids": ids}
