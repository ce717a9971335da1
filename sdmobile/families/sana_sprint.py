"""SANA-Sprint: Gemma 2 as the text encoder, a transformer of linear attention, DC-AE, in 1 to 4 steps.

Chen et al., "SANA-Sprint: One-Step Diffusion with Continuous-Time Consistency Distillation", arXiv 2503.09641. There
is no unconditional row: guidance was distilled into the transformer, which takes its scale as a number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families import deep_compression, gemma2, sana, sana_text, trigflow
from sdmobile.families.component import EMBEDDED, Config
from sdmobile.families.facts import Facts
from sdmobile.families.flow_matching import PREDICTION
from sdmobile.families.kept_tables import TRIGFLOW, loop_of
from sdmobile.families.mmdit import patch_size
from sdmobile.families.own_loop import OwnLoop
from sdmobile.families.scheduler_document import document_of

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from sdmobile.families.component import Arrays, Run
    from sdmobile.formats.bundle.contracts import Geometry

_PIPELINE = "SanaSprintPipeline"
_MOST_PLACES = 256
"""Tokens along a side of the pictures that a network was trained on: eight times those of 1024 pixels."""


class SanaSprint(OwnLoop):
    """Recognised by its pipeline or its transformer."""

    name = "sana-sprint"
    title = "SANA-Sprint"
    models = (gemma2.MODEL, sana.MODEL, deep_compression.MODEL)
    components = (sana_text.TEXT_ENCODER, sana.TRANSFORMER, deep_compression.DECODER, deep_compression.ENCODER)
    tokenizer_kind = sana_text.TOKENIZER
    loop_kind = TRIGFLOW
    guidances = (EMBEDDED,)
    default_steps = 2
    default_guidance_scale = 4.5
    tag = "sana-sprint"
    guidance_rule = (
        f"The guidance scale is the input `{sana.GUIDANCE}` of the transformer; there is no unconditional row"
    )

    def claims(self, index: Mapping[str, Any], configs: Mapping[str, Config]) -> bool:
        transformer = configs.get(sana.MODEL.name, {}).get("_class_name")
        return "Sana" in str(index.get("_class_name")) or transformer in sana.MODEL.classes

    def check_index(self, index: Mapping[str, Any], path: Path) -> None:
        stated = index.get("_class_name")
        if isinstance(stated, str) and not stated.startswith(_PIPELINE.removesuffix("Pipeline")):
            raise UnsupportedError(
                "the pipeline must be one of SANA-Sprint",
                f"{stated}: another task, or SANA of many steps",
                "Give a checkpoint of SANA-Sprint.",
            )
        super().check_index(index, path)

    def facts(self, configs: Mapping[str, Config], scheduler_config: Config, notes: list[str]) -> Facts:
        trigflow.check_trigflow(scheduler_config)
        text, transformer, vae = (configs[model.name] for model in self.models)
        sana.check(transformer)
        patch = patch_size(transformer)
        _check_fit(text, transformer, vae)
        size = _size(transformer, patch)
        return Facts(
            scheduler_config=scheduler_config,
            latent_channels=vae["latent_channels"],
            latent_size=(size, size),
            vae_scale_factor=deep_compression.scale_factor(vae),
            scaling_factor=deep_compression.scaling_factor(vae),
            context_length=sana_text.ROWS,
            context_dim=text["hidden_size"],
            prediction_type=PREDICTION,
            latent_multiple=patch,
        )

    def encode(self, token_ids: NDArray[np.int64], run: Run, geometry: Geometry) -> Arrays:
        features = run("text_encoder", {"input_ids": token_ids})["last_hidden_state"]
        return {"encoder_hidden_states": features, sana.MASK: sana_text.mask_of(token_ids)}

    def conditioning(self, guidance_scale: float, geometry: Geometry) -> Arrays:
        import numpy as np

        return {sana.GUIDANCE: np.asarray([guidance_scale], dtype=np.float32)}

    def scheduler(self, config: Mapping[str, Any], name: str | None, steps: int) -> Any:
        return trigflow.trigflow_scheduler(config, name, steps)

    def step(
        self,
        scheduler: Any,
        prediction: Tensor,
        timestep: Tensor,
        latent: Tensor,
        generator: torch.Generator,
        noise: Callable[[], NDArray[np.float32]],
    ) -> Tensor:
        return scheduler.stepped(prediction, timestep, latent, noise)

    def scheduler_document(
        self, config: Mapping[str, Any], scaling_factor: float, shift_factor: float = 0.0
    ) -> dict[str, Any]:
        guidance = f"{sana.GUIDANCE} of the transformer = scale; no unconditional row"
        loop, length = loop_of(config, self.loop_kind), config.get("num_train_timesteps", 1000)
        return document_of(loop, scaling_factor, shift_factor, guidance, self.default_steps, length)

    def app_facts(self, facts: Facts) -> dict[str, Any]:
        rows = sana_text.ROWS
        return {
            "conditioning": {
                "encoder_hidden_states": "last_hidden_state of text_encoder",
                sana.MASK: f"of the first and the last {rows - 1} of the input_ids of text_encoder: 1 where one is not "
                f"{gemma2.PAD}, else 0",
                sana.GUIDANCE: f"the guidance scale itself, such as {self.default_guidance_scale}",
                "negative_text": "is not used",
            }
        }


def _check_fit(text: Config, transformer: Config, vae: Config) -> None:
    """Raises CheckpointError unless the models fit each other."""
    latent, inputs = vae.get("latent_channels"), transformer["in_channels"]
    outputs = transformer.get("out_channels") or inputs
    if type(latent) is not int or inputs != latent or outputs != latent:
        raise CheckpointError(
            "transformer and VAE must have the same latent channels",
            f"transformer {inputs} in, {outputs} out; VAE {latent}",
        )
    if transformer["caption_channels"] != text.get("hidden_size"):
        raise CheckpointError(
            "the transformer must take the text encoder's features",
            f"transformer {transformer['caption_channels']}, text encoder {text.get('hidden_size')}",
        )
    width = transformer.get("cross_attention_dim")
    for heads, each in sana.HEADS:
        number, size = transformer.get(heads), transformer.get(each)
        if type(number) is not int or type(size) is not int or number * size != width:
            rule = "the heads of the transformer must have the width of its weights"
            raise CheckpointError(rule, f"{heads} {number} of {size} features, weights of {width}")


def _size(transformer: Config, patch: int) -> int:
    """Returns the latent cells along one side that a transformer was trained on."""
    size = transformer.get("sample_size", 32)
    if type(size) is not int or not 0 < size <= patch * _MOST_PLACES or size % patch:
        rule = (
            f"sample_size of the transformer must be a multiple of {patch} latent cells, up to {patch * _MOST_PLACES}"
        )
        raise CheckpointError(rule, size)
    return size
