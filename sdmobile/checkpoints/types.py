"""What a recognised checkpoint is: facts from headers and configurations, no weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from sdmobile.checkpoints.hashing import hash_files
from sdmobile.families.components import ComponentName

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class ComponentInfo:
    """One model of a checkpoint.

    Args:
        name: text_encoder, unet or vae.
        path: its folder, or the single file that holds all components.
        class_name: the Diffusers or Transformers class that runs it.
        config: that class's configuration, corrected where the tensors say otherwise.
        parameters: number of weights (scalars).
        dtype: precision in which most of them are stored.
        bytes: size of its tensors on disk.
        weight_files: the files that hold them.
    """

    name: ComponentName
    path: Path
    class_name: str
    config: dict[str, Any]
    parameters: int
    dtype: str
    bytes: int
    weight_files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    """A text-to-image checkpoint of the Stable Diffusion 1.x/2.x shape.

    Args:
        path: the Diffusers folder or the single file.
        name: name for people.
        format: "diffusers" or "single_file".
        components: by name.
        tokenizer_dir: folder of the CLIPTokenizer, if there is one.
        scheduler_config: configuration of the Diffusers scheduler that the checkpoint was trained for.
        latent_channels: C of a latent [C, h, w].
        latent_size: h = w that the checkpoint was trained on, in latent cells.
        vae_scale_factor: pixels per latent cell along one axis.
        scaling_factor: latents are multiplied by it after encoding and divided by it before decoding.
        context_length: tokens per prompt.
        context_dim: features per token.
        prediction_type: what the UNet predicts: "epsilon", "v_prediction" or "sample".
        license: SPDX identifier or name, None where the checkpoint does not say.
        guidance_scale: classifier-free guidance scale that the model card recommends, None where it does not.
        notes: where configuration and tensors disagree, and what was assumed.
        hashed_files: files that make the checkpoint what it is, relative to `path` (or its parent).
    """

    path: Path
    name: str
    format: Literal["diffusers", "single_file"]
    components: dict[str, ComponentInfo]
    tokenizer_dir: Path | None
    scheduler_config: dict[str, Any]
    latent_channels: int
    latent_size: int
    vae_scale_factor: int
    scaling_factor: float
    context_length: int
    context_dim: int
    prediction_type: str
    license: str | None
    guidance_scale: float | None = None
    notes: tuple[str, ...] = ()
    hashed_files: tuple[Path, ...] = field(default=(), repr=False)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over names and bytes of the weight, configuration and tokenizer files, as hexadecimal digits.

        Read on first use, at the speed of the disk; a copy of the checkpoint elsewhere has the same hash.
        """
        root = self.path if self.path.is_dir() else self.path.parent
        return hash_files(root, self.hashed_files)

    @property
    def image_size(self) -> int:
        """Height = width of the picture, in pixels."""
        return self.latent_size * self.vae_scale_factor
