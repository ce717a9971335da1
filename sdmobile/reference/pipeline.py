"""What sampling needs to know of a bundle or a checkpoint besides its components."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sdmobile.errors import UsageError
from sdmobile.families import family_of
from sdmobile.families.component import UNGUIDED

if TYPE_CHECKING:
    from pathlib import Path

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.families.component import Guidance
    from sdmobile.families.family import Family
    from sdmobile.formats.bundle.contracts import Geometry
    from sdmobile.formats.bundle.reading import Bundle
    from sdmobile.reference.geometry import Resolution

DEFAULT_STEPS = 20
DEFAULT_GUIDANCE_SCALE = 7.5


@dataclass(frozen=True)
class PipelineSpec:
    """What sampling needs to know besides the components.

    Args:
        family: how a prompt becomes arrays and how a step is taken.
        geometry: latent, image and context sizes.
        guidance: one of the family's: "batch2" calls the denoiser once a step with the unconditional row first,
            "separate" once per row of `Family.guidance_rows`.
        scaling_factor: the final latent is divided by it before decoding.
        scheduler_config: configuration of the Diffusers scheduler the checkpoint was trained for, at this size.
        tokenizer_dir: folder of the tokenizer.
        guidance_scale: what the checkpoint's model card or scheduler asks for, else the family's default.
        steps: likewise.
        pad_token: fills up a text where the tokenizer's folder does not say which token does.
        added_tokens: learned words that the folder does not have.
        zeros_where_empty: the unconditional row of an empty negative text is zeros.
        shift_factor: is added to the final latent after the division.
    """

    family: Family
    geometry: Geometry
    guidance: Guidance
    scaling_factor: float
    scheduler_config: Mapping[str, Any]
    tokenizer_dir: Path
    guidance_scale: float = DEFAULT_GUIDANCE_SCALE
    steps: int = DEFAULT_STEPS
    pad_token: str | None = None
    added_tokens: tuple[str, ...] = ()
    zeros_where_empty: bool = False
    shift_factor: float = 0.0

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """[1, C, h, w]."""
        return (1, self.geometry.latent_channels, self.geometry.latent_height, self.geometry.latent_width)

    def sized(self, geometry: Geometry) -> PipelineSpec:
        """Returns the pipeline at other sizes."""
        schedule = self.family.schedule_at(self.scheduler_config, geometry.latent_size)
        return replace(self, geometry=geometry, scheduler_config=schedule)

    def guided_at(self, scale: float) -> PipelineSpec:
        """Returns the pipeline with a way of guidance that makes a difference at a scale, where the family has one.

        Args:
            scale: s in ε = ε_uncond + s·(ε_text − ε_uncond).
        """
        ways = (way for way in self.family.guidances if way.texts > 1)
        if scale <= 1 or self.guidance.texts > 1 or (way := next(ways, None)) is None:
            return self
        return replace(self, guidance=way, geometry=replace(self.geometry, batch=way.rows))

    def tokenizer(self) -> Any:
        """Loads the tokenizer, in Transformers' class."""
        from sdmobile.checkpoints.tokenizers import tokenizer_from

        return tokenizer_from(self.tokenizer_dir, self.pad_token, self.added_tokens, self.family.tokenizer_kind)

    def check_image_asked(self, image_scale: float | None, scale: float) -> None:
        """Raises UsageError where an image guidance scale that a user asks for would change nothing.

        Args:
            image_scale: None asks for none.
            scale: of the texts' guidance.
        """
        if image_scale is None:
            return
        if self.family.default_image_guidance_scale is None:
            raise UsageError(
                "an image guidance scale is for models that a picture guides", self.family.title, "Leave it out."
            )
        if not self.family.guided(scale):
            raise UsageError(
                "without guidance (a scale of at most 1) there is no image guidance either",
                f"{image_scale:g}",
                "Leave it out, or take a --guidance above 1.",
            )

    def check_asked(self, scale: float | None) -> None:
        """Raises UsageError where a guidance scale that a user asks for would change nothing; None asks for none."""
        if scale is not None and scale > 1 and self.guidance is UNGUIDED:
            guided = any(way.texts > 1 for way in self.family.guidances)
            raise UsageError(
                "without an unconditional row (guidance none) the guidance scale must be at most 1",
                f"{scale:g}",
                "Export with --guidance batch2." if guided else "Leave it out: guidance was distilled into the model.",
            )

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> PipelineSpec:
        """Reads the pipeline of an exported bundle."""
        family = family_of(bundle.manifest)
        return cls(
            family=family,
            geometry=bundle.geometry,
            guidance=family.guidance(bundle.guidance),
            scaling_factor=float(bundle.pipeline["scaling_factor"]),
            scheduler_config=bundle.pipeline["scheduler"],
            tokenizer_dir=bundle.tokenizer_dir,
            guidance_scale=float(_stated(bundle, "guidance_scale", family.default_guidance_scale)),
            steps=int(_stated(bundle, "steps", family.default_steps)),
            zeros_where_empty=bool(bundle.pipeline.get("zeros_where_empty", False)),
            shift_factor=float(bundle.pipeline.get("shift_factor", 0.0)),
        )

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Checkpoint, guidance: str | None = None, resolution: Resolution | None = None
    ) -> PipelineSpec:
        """Describes a checkpoint's own pipeline.

        Args:
            checkpoint: says everything about it.
            guidance: one of the family's, None for its default.
            resolution: of the picture, None for the checkpoint's own.

        Raises:
            CheckpointError: the checkpoint has no tokenizer.
            UnsupportedError: no such guidance or resolution.
            UsageError: it was distilled to few steps, as its name says, and nothing says how.
        """
        from sdmobile.checkpoints.tokenizers import require_tokenizer
        from sdmobile.reference.geometry import geometry_for

        if checkpoint.undecided is not None:
            raise checkpoint.undecided
        geometry = geometry_for(checkpoint, guidance, resolution)
        return cls(
            family=checkpoint.family,
            geometry=geometry,
            guidance=checkpoint.family.guidance(guidance),
            scaling_factor=checkpoint.scaling_factor,
            scheduler_config=checkpoint.family.schedule_at(checkpoint.scheduler_config, geometry.latent_size),
            tokenizer_dir=require_tokenizer(checkpoint),
            guidance_scale=checkpoint.usual_guidance_scale,
            steps=checkpoint.usual_steps,
            pad_token=checkpoint.pad_token,
            added_tokens=checkpoint.added_tokens,
            zeros_where_empty=checkpoint.zeros_where_empty,
            shift_factor=checkpoint.shift_factor,
        )


def _stated(bundle: Bundle, key: str, default: float) -> float:
    """Returns what a bundle's pipeline says, which may be 0."""
    value = bundle.pipeline.get(key)
    return default if value is None else value
