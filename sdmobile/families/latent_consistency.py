"""Latent consistency models: Stable Diffusion whose UNet takes the guidance scale as an input, in 1 to 8 steps.

    f(x, w, c, t) = c_skip(t)·x + c_out(t)·D(x, w, c, t)          D the clean latent that the prediction implies
    x_next = √ᾱ_next·f + √(1 − ᾱ_next)·z                          z fresh noise; after the last step x = f

Luo et al., "Latent Consistency Models", arXiv 2310.04378 (equation 9, algorithm 2); c_skip and c_out as in Diffusers'
LCMScheduler. There is no unconditional row: guidance was distilled into the UNet, by an embedding of its scale.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families import autoencoder, clip, unet
from sdmobile.families.component import EMBEDDED, Config, FileNames, Kind, Shapes, Value
from sdmobile.families.facts import Facts
from sdmobile.families.family import Family
from sdmobile.families.kept_tables import CONSISTENCY, loop_of
from sdmobile.families.original_names import Source
from sdmobile.families.scheduler_document import document_of
from sdmobile.families.schedulers import LCM
from sdmobile.families.stable_diffusion import StableDiffusion

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from sdmobile.families.component import Arrays
    from sdmobile.formats.bundle.contracts import Geometry

_EMBEDDING = "timestep_cond"
_WIDTH = "time_cond_proj_dim"
_STORED = f"{unet.PREFIX}time_embed.cond_proj.weight"


def guidance_embedding(scale: float, width: int) -> NDArray[np.float32]:
    """Returns what the UNet takes for a guidance scale, [1, width].

    e = [sin(1000·(s − 1)·f), cos(1000·(s − 1)·f)],    f_i = exp(−i·ln 10000 / (width/2 − 1))

    In float32 as Diffusers computes it, since the network was trained on these roundings.

    Args:
        scale: s, as users give it.
        width: an odd one ends in a zero.
    """
    import numpy as np

    half = width // 2
    exponents = np.arange(half, dtype=np.float32) * -(np.log(np.float32(10000.0)) / np.float32(half - 1))
    phases = np.float32(scale - 1.0) * np.float32(1000.0) * np.exp(exponents)
    return np.pad(np.concatenate([np.sin(phases), np.cos(phases)]), (0, width % 2))[None]


def _derive(shapes: Shapes) -> Config:
    facts = unet.derive(shapes)
    if (projection := shapes.get("time_embedding.cond_proj.weight")) and len(projection) == 2:
        facts[_WIDTH] = projection[1]
    return facts


def _sources(shapes: Shapes) -> Mapping[str, Source]:
    """Returns those of the UNet, and that of the guidance embedding, which Diffusers' own renaming does not know."""
    if _STORED not in shapes:
        raise KeyError(_STORED)
    return {**unet.MODEL.sources(shapes), "time_embedding.cond_proj.weight": Source(_STORED)}


def _wrap(module: nn.Module, channels_last: bool) -> nn.Module:
    from sdmobile.families.wrappers import UNetWithVector

    return UNetWithVector(module, channels_last, _EMBEDDING)


def _reference(module: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    arguments = (inputs[name] for name in ("sample", "timestep", "encoder_hidden_states"))
    return module(*arguments, timestep_cond=inputs[_EMBEDDING], return_dict=False)[0]


_MODEL = dataclasses.replace(
    unet.MODEL,
    derive=_derive,
    check=lambda class_name, config: unet.check(class_name, config, taken=(_WIDTH,)),
    sources=_sources,
)
_UNET = dataclasses.replace(
    unet.UNET,
    summary="Denoiser: noisy latents, timestep, text features and guidance embedding to a prediction",
    inputs=(
        *unet.UNET.inputs,
        Value(_EMBEDDING, Kind.VECTOR, lambda g: (g.batch, g.size(_WIDTH)), "Embedding of the guidance scale"),
    ),
    files={
        target: FileNames(names.file, names.signature, (*names.inputs, _EMBEDDING), names.outputs)
        for target, names in unet.UNET.files.items()
    },
    wrap=_wrap,
    reference=_reference,
)


class LatentConsistency(StableDiffusion):
    """Recognised by the guidance embedding of its UNet; text encoder and autoencoder are those of Stable Diffusion."""

    name = "latent-consistency"
    title = "Latent consistency"
    models = (clip.MODEL, _MODEL, autoencoder.MODEL)
    components = (clip.TEXT_ENCODER, _UNET, autoencoder.DECODER, autoencoder.ENCODER)
    control_parts = ()  # a control network goes with a UNet without inputs of its own
    loop_kind = CONSISTENCY
    distillable = False  # it is, to its own few steps
    guidances = (EMBEDDED,)
    default_steps = 4
    default_guidance_scale = 8.5
    tag = "latent-consistency"
    guidance_rule = "The guidance scale is an input of the UNet (`guidance_embedding` in `metadata.json`)"
    app_use: Mapping[str, str] = {}
    app_scripts = Family.app_scripts

    def claims(self, index: Mapping[str, Any], configs: Mapping[str, Config]) -> bool:
        return configs.get("unet", {}).get(_WIDTH) is not None

    def claims_file(self, shapes: Shapes) -> bool:
        return _STORED in shapes

    def facts(self, configs: Mapping[str, Config], scheduler_config: Config, notes: list[str]) -> Facts:
        facts = super().facts(configs, scheduler_config, notes)
        width = configs["unet"][_WIDTH]
        if not isinstance(width, int) or not 4 <= width <= 65536:
            raise CheckpointError(f"{_WIDTH} of the UNet must be a number of features from 4 to 65536", width)
        return dataclasses.replace(facts, sizes=((_WIDTH, width),))

    def file_scheduler(
        self, metadata: Mapping[str, str], names: Sequence[str], said: Mapping[str, Any], notes: list[str]
    ) -> Config:
        schedule = super().file_scheduler(metadata, names, said, notes)
        notes.append(f"scheduler: the file has none; {LCM} with the betas of Stable Diffusion assumed")
        return {**schedule, "_class_name": LCM, "original_inference_steps": 50}

    def conditioning(self, guidance_scale: float, geometry: Geometry) -> Arrays:
        return {_EMBEDDING: guidance_embedding(guidance_scale, geometry.size(_WIDTH))}

    def scheduler(self, config: Mapping[str, Any], name: str | None, steps: int) -> Any:
        if name not in (None, "lcm", LCM):
            raise UnsupportedError("a latent consistency model is sampled by its own scheduler", name, "Leave it out")
        try:
            return super().scheduler(config, LCM, steps)
        except UnsupportedError as error:
            most = config.get("original_inference_steps", 50)
            raise UnsupportedError(f"a latent consistency model takes at most {most} steps", steps) from error

    def usual_sampling(
        self, configs: Mapping[str, Config], scheduler_config: Config, notes: list[str]
    ) -> tuple[int | None, float | None]:
        return None, None

    def scheduler_document(
        self, config: Mapping[str, Any], scaling_factor: float, shift_factor: float = 0.0
    ) -> dict[str, Any]:
        guidance = f"{_EMBEDDING}, see metadata.json; no unconditional row"
        loop = loop_of(config, self.loop_kind)
        return document_of(loop, scaling_factor, shift_factor, guidance, self.default_steps)

    def app_differences(self, target: str, facts: Facts) -> list[str]:
        if target != "ios":
            return []
        return [
            f"Apple's Swift package gives the UNet no `{_EMBEDDING}` and has no sampler for it: the app runs the files "
            "itself, by scheduler.json and metadata.json"
        ]

    def app_facts(self, facts: Facts) -> dict[str, Any]:
        width, scale = dict(facts.sizes)[_WIDTH], self.default_guidance_scale
        return {
            "guidance_embedding": {
                "input": _EMBEDDING,
                "width": width,
                "formula": "[sin(w * f), cos(w * f)], w = 1000 * (s - 1), f_i = exp(-i * ln(10000) / (width / 2 - 1))",
                "example": {"guidance_scale": scale, "values": guidance_embedding(scale, width)[0].tolist()},
            }
        }
