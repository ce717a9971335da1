"""Stable Diffusion 1.x and 2.x: CLIP text encoder, UNet, KL autoencoder, classifier-free guidance.

Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", arXiv 2112.10752; guidance by Ho and
Salimans, arXiv 2207.12598.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families import apple, autoencoder, clip, unet, unet_control
from sdmobile.families.component import BATCH2, SEPARATE, Config, Shapes
from sdmobile.families.facts import Facts
from sdmobile.families.family import Family
from sdmobile.families.schedulers import STABLE_DIFFUSION, check_schedule, prediction_type

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from sdmobile.families.component import Arrays, Run
    from sdmobile.formats.bundle.contracts import Geometry

_RULE = "the architecture must be one that sdmobile exports"
_SUPPORTED = (
    "Supported are pipelines of the Stable Diffusion shape: CLIPTextModel (in XL, CLIPTextModelWithProjection too) + "
    "UNet2DConditionModel + AutoencoderKL."
)
_OTHER_MODELS = (
    "text_encoder_2",
    "transformer",
    "controlnet",
    "prior",
    "movq",
    "image_encoder",
    "motion_adapter",
)
# Part of a tensor name -> what the file is. The first match decides.
_OTHER_FILES = (
    ("lora_", "a LoRA, which holds changes to a checkpoint, not a checkpoint"),
    (".lora_", "a LoRA, which holds changes to a checkpoint, not a checkpoint"),
    ("control_model.", "a ControlNet"),
    ("conditioner.embedders.", "the refiner of Stable Diffusion XL, or a file that lacks its second text encoder"),
    ("joint_blocks.", "Stable Diffusion 3, which is read as a Diffusers folder"),
    ("double_blocks.", "Flux"),
    ("double_stream_modulation", "Flux 2"),
    ("model.diffusion_model.label_emb.", "a UNet with class or image embeddings (SDXL, unCLIP)"),
    ("motion_modules.", "AnimateDiff"),
    ("movq.", "Kandinsky"),
)
# Empty tensors by which single files say how they were trained.
_V_PREDICTION, _ZERO_SNR = "v_pred", "ztsnr"
# Lin et al., arXiv 2305.08891: the last training step holds no signal, and sampling starts there.
_TO_ZERO = {"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


class StableDiffusion(Family):
    """The family of 2022; every checkpoint that no other family claims is judged by it."""

    name = "stable-diffusion"
    title = "Stable Diffusion 1.x/2.x"
    models = (clip.MODEL, unet.MODEL, autoencoder.MODEL)
    components = (clip.TEXT_ENCODER, unet.UNET, autoencoder.DECODER, autoencoder.ENCODER)
    control_parts = (unet_control.CONTROLNET,)
    guidances = (BATCH2, SEPARATE)
    default_steps = 20
    default_guidance_scale = 7.5
    distillable = True
    tag = "stable-diffusion"
    guidance_rule = "With guidance scale s, the prediction is uncond + s·(text − uncond)"
    own_marks: ClassVar[tuple[str, ...]] = ()
    """Parts of names that tell other models than Stable Diffusion 1.x/2.x from it, and that this family has."""
    usual_pixels: ClassVar[tuple[int, int]] = (512, 768)
    """Of a single file that does not say it, with CLIP's text encoder and with OpenCLIP's."""
    app_use: Mapping[str, str] = {"ios": apple.USE}
    app_scripts: Mapping[str, tuple[str, str]] = {"ios": (apple.SCRIPT, apple.compile_script(apple.PIPELINE))}

    def claims(self, index: Mapping[str, Any], configs: Mapping[str, Config]) -> bool:
        return True

    def claims_file(self, shapes: Shapes) -> bool:
        return True

    def check_index(self, index: Mapping[str, Any], path: Path) -> None:
        pipeline = index.get("_class_name")
        if not isinstance(pipeline, str):
            raise CheckpointError("model_index.json must name its pipeline in _class_name", path / "model_index.json")
        stated = {name: entry[1] for name, entry in index.items() if _is_entry(entry)}
        own = {model.name for model in self.models}
        for extra in _OTHER_MODELS:
            if extra in stated and extra not in own:
                raise UnsupportedError(_RULE, f"{pipeline} with {extra} = {stated[extra]}", _SUPPORTED)
        for model in self.models:
            if model.name not in stated:
                raise UnsupportedError(_RULE, f"{pipeline} has no {model.name}", _SUPPORTED)
            if stated[model.name] not in model.classes:
                raise UnsupportedError(_RULE, f"{pipeline} with {model.name} = {stated[model.name]}", _SUPPORTED)

    def check_file(self, names: Sequence[str], path: Path) -> None:
        rule = f"a single file must hold {self.title} in its original layout"
        for mark, meaning in _OTHER_FILES:
            if mark in self.own_marks:
                continue
            if any(name.startswith(mark) or (mark in name and mark != "lora_") for name in names):
                raise UnsupportedError(rule, f"{path} is {meaning}", _SUPPORTED)
        if any(name.startswith(("down_blocks.", "encoder.down_blocks.", "text_model.")) for name in names):
            raise CheckpointError(rule, f"{path} is one component of a Diffusers checkpoint", "Give the whole folder.")
        missing = [model.name for model in self.models if not any(name.startswith(model.prefixes) for name in names)]
        if len(missing) == len(self.models):
            shown = ", ".join(sorted(names)[:3])
            raise UnsupportedError(rule, f"{path} has {len(names)} tensors such as {shown}", _SUPPORTED)
        if missing:
            fix = "Use a file that is not pruned of it."
            raise CheckpointError(rule, f"{path} has no {' and no '.join(missing)}", fix)

    def facts(self, configs: Mapping[str, Config], scheduler_config: Config, notes: list[str]) -> Facts:
        check_schedule(scheduler_config)
        text, denoiser, vae = configs["text_encoder"], configs["unet"], configs["vae"]
        width = self.context_width(configs)
        _check_together(denoiser, vae, width, self.denoiser_channels)
        scale = autoencoder.scale_factor(vae)
        length = text.get("max_position_embeddings")
        if not length:
            raise CheckpointError(
                "the configuration of text_encoder must say max_position_embeddings, or its tensors must", length
            )
        return Facts(
            scheduler_config=scheduler_config,
            latent_channels=vae["latent_channels"],
            latent_size=unet.latent_size(denoiser, vae, scale, notes),
            vae_scale_factor=scale,
            scaling_factor=autoencoder.scaling_factor(vae, notes),
            context_length=length,
            context_dim=denoiser["cross_attention_dim"],
            prediction_type=prediction_type(scheduler_config, notes),
        )

    def denoiser_channels(self, latent_channels: int) -> int:
        """Returns the input channels of the UNet."""
        return latent_channels

    def context_width(self, configs: Mapping[str, Config]) -> object:
        """Returns the features per token that the text encoders give the UNet."""
        return configs["text_encoder"].get("hidden_size")

    def pad_token(self, configs: Mapping[str, Config]) -> str | None:
        return clip.pad_token(configs["text_encoder"])

    def file_scheduler(
        self, metadata: Mapping[str, str], names: Sequence[str], said: Mapping[str, Any], notes: list[str]
    ) -> Config:
        open_clip = clip.is_open_clip(names)
        marked = "v_prediction" if _V_PREDICTION in names else None
        stated = {"v": "v_prediction", "v_prediction": "v_prediction", "epsilon": "epsilon"}
        in_metadata = stated.get(metadata.get("modelspec.prediction_type", ""))
        prediction = said.get("prediction_type") or marked or in_metadata
        if prediction is None:
            prediction = "v_prediction" if open_clip else "epsilon"
            usual = (
                "v_prediction assumed as in the 768-pixel Stable Diffusion 2.x (512-base predicts epsilon"
                if open_clip
                else "epsilon assumed as in Stable Diffusion 1.x (some fine-tuned ones predict v"
            )
            notes.append(
                f"scheduler: the file does not say what the UNet predicts; {usual}: --prediction-type, or put "
                "scheduler/scheduler_config.json beside it)"
            )
        schedule = {**STABLE_DIFFUSION, **said, "prediction_type": prediction}
        if _ZERO_SNR not in names:
            return schedule
        notes.append("scheduler: the file was trained down to zero signal (`ztsnr`); DDIM with trailing steps is used")
        return {**schedule, **_TO_ZERO}

    def file_latent_size(
        self, metadata: Mapping[str, str], configs: Mapping[str, Config], names: Sequence[str], notes: list[str]
    ) -> tuple[int, int]:
        scale = 2 ** (len(configs["vae"].get("block_out_channels", [0] * 4)) - 1)
        stated = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", metadata.get("modelspec.resolution", ""))
        sides = [] if stated is None else [int(side) for side in (stated[2] or stated[1], stated[1])]
        if sides and min(sides) >= scale:
            return sides[0] // scale, sides[1] // scale
        pixels = self.usual_pixels[clip.is_open_clip(names)]
        notes.append(f"unet: the file does not say its resolution; {pixels} pixels assumed")
        return pixels // scale, pixels // scale

    def encode(self, token_ids: NDArray[np.int64], run: Run, geometry: Geometry) -> Arrays:
        return {"encoder_hidden_states": run("text_encoder", {"input_ids": token_ids})["last_hidden_state"]}

    def scheduler_document(
        self, config: Mapping[str, Any], scaling_factor: float, shift_factor: float = 0.0
    ) -> dict[str, Any]:
        from sdmobile.families.scheduler_document import scheduler_document

        return scheduler_document(config, scaling_factor, shift_factor)

    def tokenizer_differences(self, target: str, pad_token: str, eos_token: str, added: Mapping[str, int]) -> list[str]:
        if target not in self.app_use:
            return []
        differences: list[str] = []
        if pad_token != eos_token:
            differences.append(
                f"texts are filled up with {pad_token!r}; Apple's Swift package fills them up with {eos_token!r}: give "
                "its BPETokenizer the padToken"
            )
        if added:
            shown = ", ".join(f"{token} ({number})" for token, number in list(added.items())[:3])
            differences.append(
                f"the tokenizer has {len(added)} added tokens, such as {shown}; Apple's Swift package splits them like "
                "other words: put their identifiers in yourself"
            )
        return differences

    def app_differences(self, target: str, facts: Facts) -> list[str]:
        if target != "ios":
            return []
        differences = apple.control_differences(self.controls, self.guidances)
        if facts.prediction_type != "epsilon":
            differences.append(
                f"the UNet predicts {facts.prediction_type}; the schedulers of Apple's Swift package read epsilon"
            )
        for key in apple.SCHEDULE:
            stated, built_in = facts.scheduler_config.get(key, STABLE_DIFFUSION[key]), STABLE_DIFFUSION[key]
            if stated != built_in:
                differences.append(f"scheduler {key} is {stated}; Apple's Swift package has {built_in} built in")
        if facts.scaling_factor != autoencoder.SCALING_FACTOR:
            differences.append(
                f"the latent scaling factor is {facts.scaling_factor:g}; Apple's Swift package defaults to "
                f"{autoencoder.SCALING_FACTOR}: set it in the pipeline's configuration"
            )
        if facts.latent_channels != apple.LATENT_CHANNELS:
            differences.append(
                f"latents have {facts.latent_channels} channels; the image encoder of Apple's Swift package assumes "
                f"{apple.LATENT_CHANNELS} (text to image is not affected)"
            )
        return differences


def _check_together(denoiser: Config, vae: Config, width: object, channels: Callable[[int], int]) -> None:
    """Raises unless the models fit each other: UnsupportedError for another task, CheckpointError for other widths."""
    latent, inputs, outputs = vae.get("latent_channels"), denoiser.get("in_channels"), denoiser.get("out_channels")
    wanted = channels(latent) if isinstance(latent, int) else latent
    if isinstance(inputs, int) and isinstance(latent, int) and inputs > latent and inputs != wanted:
        kind = {2 * latent + 1: "inpainting", latent + 1: "depth-to-image", 2 * latent: "image editing or upscaling"}
        raise UnsupportedError(
            _RULE,
            f"a UNet with {inputs} input channels for {latent} latent channels ({kind.get(inputs, 'unknown')})",
            _SUPPORTED,
        )
    if inputs != wanted or outputs != latent:
        raise CheckpointError(
            "UNet and VAE must have the same latent channels", f"UNet {inputs} in, {outputs} out; VAE {latent}"
        )
    if denoiser.get("cross_attention_dim") != width:
        raise CheckpointError(
            "the UNet's cross-attention must have the width of the text encoder",
            f"UNet {denoiser.get('cross_attention_dim')}, text encoder {width}",
        )


def _is_entry(entry: object) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str)
