"""Stable Diffusion 3 and 3.5: two CLIP text encoders, a multimodal transformer, a KL autoencoder of 16 channels.

    c = (CLIP-L | CLIP-G | 0) over rows of zeros where T5's would be,  p = (pooled L | pooled G)
    z = x/scaling + shift                                              decoded, of the last latent x

Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", arXiv 2403.03206. T5 is left
out, as the paper leaves it out at will (section 5.3.3): the result is that of Diffusers with `text_encoder_3=None`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from sdmobile.errors import CheckpointError
from sdmobile.families import apple, autoencoder, clip_pooled, mmdit
from sdmobile.families.clip_pooled import POOLED, WIDTH
from sdmobile.families.component import BATCH2, SEPARATE, Config, Shapes
from sdmobile.families.facts import Facts
from sdmobile.families.flow_matched import FlowMatched
from sdmobile.families.flow_matching import PREDICTION, check_unsized
from sdmobile.families.stable_diffusion_xl import StableDiffusionXL

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sdmobile.families.component import Arrays, Run
    from sdmobile.formats.bundle.contracts import Geometry

_T5 = "text_encoder_3"
# Of the model card of stabilityai/stable-diffusion-3.5-medium, whose first layers attend twice.
_MEDIUM_STEPS, _MEDIUM_GUIDANCE_SCALE = 40, 4.5
_MODEL_1 = dataclasses.replace(clip_pooled.MODEL_2, name="text_encoder", prefixes=(), sources=lambda shapes: {})
_MODEL_2 = dataclasses.replace(clip_pooled.MODEL_2, prefixes=(), sources=lambda shapes: {})
SHIFTED_VAE = dataclasses.replace(autoencoder.MODEL, check=autoencoder.check_shifted)
SHIFTED_DECODER = dataclasses.replace(
    autoencoder.DECODER,
    inputs=tuple(
        dataclasses.replace(one, description="Latents divided by the scaling factor, plus the shift")
        for one in autoencoder.DECODER.inputs
    ),
)


class StableDiffusion3(FlowMatched, StableDiffusionXL):
    """Recognised by its pipeline or its transformer."""

    name = "stable-diffusion-3"
    title = "Stable Diffusion 3/3.5"
    models = (_MODEL_1, _MODEL_2, mmdit.MODEL, SHIFTED_VAE)
    components = (
        clip_pooled.TEXT_ENCODER,
        clip_pooled.TEXT_ENCODER_2,
        mmdit.TRANSFORMER,
        SHIFTED_DECODER,
        autoencoder.ENCODER,
    )
    guidances = (
        dataclasses.replace(BATCH2, sentence="both guidance rows in one call of the transformer"),
        dataclasses.replace(SEPARATE, sentence="one call of the transformer per row"),
    )
    default_steps = 28
    default_guidance_scale = 7.0
    distillable = False
    tag = "stable-diffusion-3"
    own_marks = ()
    guidance_rule = (
        "With guidance scale s, the prediction is uncond + s·(text − uncond); both rows take the features and the "
        "pooled rows of both text encoders (`conditioning` in `metadata.json`)"
    )
    app_use: Mapping[str, str] = {"ios": apple.USE_3}
    app_scripts: Mapping[str, tuple[str, str]] = {"ios": (apple.SCRIPT, apple.compile_script(apple.PIPELINE_3))}
    app_chunks: ClassVar[int] = 1

    def claims(self, index: Mapping[str, Any], configs: Mapping[str, Config]) -> bool:
        transformer = configs.get(mmdit.MODEL.name, {}).get("_class_name")
        return "StableDiffusion3" in str(index.get("_class_name")) or transformer in mmdit.MODEL.classes

    def claims_file(self, shapes: Shapes) -> bool:
        return False

    def zeros_where_empty(self, index: Mapping[str, Any]) -> bool:
        return False

    def facts(self, configs: Mapping[str, Config], scheduler_config: Config, notes: list[str]) -> Facts:
        check_unsized(scheduler_config)
        transformer, vae = configs[mmdit.MODEL.name], configs["vae"]
        texts = [configs[name] for name in WIDTH]
        length, patch = _length(texts), mmdit.patch_size(transformer)
        pooled = [clip_pooled.pooled_width(text, True) for text in texts]
        widths = [text["hidden_size"] for text in texts]
        _check_together(transformer, vae, sum(pooled), sum(widths))
        notes.append(
            f"the text encoder T5 ({_T5}) is left out: pictures are those of Diffusers with {_T5}=None, and long texts "
            "and words in pictures suffer"
        )
        size = _size(transformer, patch, notes)
        return Facts(
            scheduler_config=scheduler_config,
            latent_channels=vae["latent_channels"],
            latent_size=(size, size),
            vae_scale_factor=autoencoder.scale_factor(vae),
            scaling_factor=autoencoder.scaling_factor(vae, notes),
            context_length=length,
            context_dim=transformer["joint_attention_dim"],
            prediction_type=PREDICTION,
            sizes=tuple(zip((*WIDTH.values(), *POOLED.values()), (*widths, *pooled), strict=True)),
            shift_factor=autoencoder.shift_factor(vae),
            latent_multiple=patch,
            latent_most=patch * transformer["pos_embed_max_size"],
        )

    def usual_sampling(
        self, configs: Mapping[str, Config], scheduler_config: Config, notes: list[str]
    ) -> tuple[int | None, float | None]:
        if not configs[mmdit.MODEL.name].get("dual_attention_layers"):
            return None, None
        notes.append(
            f"transformer: layers that attend twice, as 3.5 medium has; {_MEDIUM_STEPS} steps at a guidance scale of "
            f"{_MEDIUM_GUIDANCE_SCALE:g} assumed"
        )
        return _MEDIUM_STEPS, _MEDIUM_GUIDANCE_SCALE

    def encode(self, token_ids: NDArray[np.int64], run: Run, geometry: Geometry) -> Arrays:
        import numpy as np

        first = run("text_encoder", {"input_ids": token_ids})
        second = run("text_encoder_2", {"input_ids": clip_pooled.with_second_padding(token_ids)})
        features = np.concatenate([first["hidden_embeds"], second["hidden_embeds"]], axis=-1)
        context = np.zeros((1, mmdit.text_rows(geometry.context_length), geometry.context_dim), dtype=np.float32)
        context[:, : features.shape[1], : features.shape[2]] = features
        pooled = np.concatenate([first["pooled_outputs"], second["pooled_outputs"]], axis=-1)
        return {"encoder_hidden_states": context, mmdit.POOLED_TEXT: pooled}

    def conditioning(self, guidance_scale: float, geometry: Geometry) -> Arrays:
        return {}

    def app_differences(self, target: str, facts: Facts) -> list[str]:
        return apple.flow_differences(facts) if target == "ios" else []

    def app_facts(self, facts: Facts) -> dict[str, Any]:
        rows, width = facts.context_length, sum(dict(facts.sizes)[name] for name in WIDTH.values())
        return {
            "conditioning": {
                "text_encoder_2": {
                    "input_ids": "those of text_encoder, with pad_token_id after the first eos_token_id",
                    "pad_token_id": clip_pooled.SECOND_PAD,
                },
                "encoder_hidden_states": f"hidden_embeds of text_encoder, then of text_encoder_2, joined along the "
                f"features; zeros from feature {width} on, and in rows {rows} to {mmdit.text_rows(rows) - 1}",
                mmdit.POOLED_TEXT: "pooled_outputs of text_encoder, then of text_encoder_2",
                "empty_negative_text": "encoded as any other",
            }
        }


def _length(texts: Sequence[Config]) -> int:
    """Returns the tokens of a text; raises CheckpointError unless both encoders take as many, and T5's rows do."""
    first, second = (text.get("max_position_embeddings") for text in texts)
    if not isinstance(first, int) or first != second or not 1 <= first <= mmdit.T5_ROWS:
        rule = f"both text encoders must take texts of one length, of at most {mmdit.T5_ROWS} tokens"
        raise CheckpointError(rule, f"{first} and {second} tokens")
    return first


def _check_together(transformer: Config, vae: Config, pooled: int, width: int) -> None:
    """Raises CheckpointError unless the models fit each other."""
    latent, inputs = vae.get("latent_channels"), transformer.get("in_channels")
    outputs = transformer.get("out_channels") or inputs
    if not isinstance(latent, int) or inputs != latent or outputs != latent:
        raise CheckpointError(
            "transformer and VAE must have the same latent channels",
            f"transformer {inputs} in, {outputs} out; VAE {latent}",
        )
    if transformer.get("pooled_projection_dim") != pooled:
        raise CheckpointError(
            "the transformer must take the pooled rows of both text encoders",
            f"transformer {transformer.get('pooled_projection_dim')}, text encoders {pooled}",
        )
    joint = transformer.get("joint_attention_dim")
    if not isinstance(joint, int) or joint < width:
        raise CheckpointError(
            "the transformer's text features must have room for those of both text encoders",
            f"transformer {joint}, text encoders {width}",
        )


def _size(transformer: Config, patch: int, notes: list[str]) -> int:
    """Returns the latent cells along one side that a transformer was trained on; notes it where they are assumed."""
    size, most = transformer.get("sample_size"), transformer.get("pos_embed_max_size")
    if size is None:
        size = mmdit.USUAL_SIZE
        notes.append(f"transformer: config does not say sample_size; {size} latent cells assumed")
    if not isinstance(most, int) or not isinstance(size, int) or not 0 < size <= patch * most or size % patch:
        raise CheckpointError(
            f"sample_size of the transformer must be a multiple of {patch} latent cells within its position table",
            f"{size} cells, a table of {most} × {most} places",
        )
    return size
