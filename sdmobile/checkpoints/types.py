"""What a recognised checkpoint is: facts from headers and configurations, no weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from sdmobile.basics.files import hash_file, hash_json, hash_tree
from sdmobile.checkpoints.headers import check_readable
from sdmobile.checkpoints.hub import name_of, origin_of
from sdmobile.checkpoints.jsonfile import MOST_BYTES
from sdmobile.errors import CheckpointError, SdmobileError, UsageError
from sdmobile.families.facts import Facts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from sdmobile.checkpoints.embeddings import Embedding
    from sdmobile.checkpoints.headers import TensorInfo
    from sdmobile.checkpoints.hub import Origin
    from sdmobile.checkpoints.lora import Lora
    from sdmobile.families.family import Family
    from sdmobile.families.few_steps import Distillation


@dataclass(frozen=True)
class Given:
    """What a user says about a checkpoint that does not say it itself.

    Args:
        tokenizer_dir: folder of the tokenizer.
        prediction_type: what the denoiser predicts.
        vae: folder or single file of another autoencoder.
        distilled: how it was distilled to few steps.
    """

    tokenizer_dir: Path | None = None
    prediction_type: str | None = None
    vae: Path | None = None
    distilled: Distillation | None = None


@dataclass(frozen=True)
class ComponentInfo:
    """One model of a checkpoint.

    Args:
        name: of the family's model, such as "unet".
        path: its folder, or the single file that holds all components.
        class_name: the Diffusers or Transformers class that runs it.
        config: that class's configuration, corrected where the tensors say otherwise.
        parameters: number of weights (scalars).
        dtype: precision in which most of them are stored.
        bytes: size of its tensors on disk.
        weight_files: the files that hold them.
        tensors: what is stored, under the names that its module uses.
    """

    name: str
    path: Path
    class_name: str
    config: dict[str, Any]
    parameters: int
    dtype: str
    bytes: int
    weight_files: tuple[Path, ...] = ()
    tensors: Mapping[str, TensorInfo] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Facts):
    """A checkpoint of a known family; the further fields are those of `Facts`.

    Args:
        family: what kind of model it is.
        path: the Diffusers folder or the single file.
        name: name for people.
        format: "diffusers" or "single_file".
        components: its models by name.
        tokenizer_dir: folder of the tokenizer, if there is one.
        pad_token: fills up a text where the tokenizer's folder does not say which token does.
        given: what the user said about it.
        called: names that may tell how it was distilled; none where its model card says how it is sampled.
        license: SPDX identifier or name, None where the checkpoint does not say.
        steps: sampling steps that the model card or the scheduler asks for, None where neither does.
        guidance_scale: guidance scale of the same sources, None where neither says one.
        notes: where configuration and tensors disagree, and what was assumed.
        hashed_files: files that make the checkpoint what it is, relative to `path` (or its parent).
        loras: what is added to its weights when a model is loaded, one after the other.
        embeddings: learned words that were added to tokenizer and text encoder, in order.
        vae_files: those of an autoencoder that took the place of the checkpoint's own.
        clip_skip: layers that were left out at the end of the text encoder.
        control_files: those of each control network, in its own folder; with one, it is another checkpoint.
    """

    family: Family
    path: Path
    name: str
    format: Literal["diffusers", "single_file"]
    components: dict[str, ComponentInfo]
    tokenizer_dir: Path | None
    license: str | None
    steps: int | None = None
    guidance_scale: float | None = None
    pad_token: str | None = None
    given: Given = field(default_factory=Given)
    called: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    hashed_files: tuple[Path, ...] = field(default=(), repr=False)
    loras: tuple[Lora, ...] = field(default=(), repr=False)
    embeddings: tuple[Embedding, ...] = field(default=(), repr=False)
    vae_files: tuple[Path, ...] = field(default=(), repr=False)
    clip_skip: int | None = None
    control_files: tuple[tuple[Path, ...], ...] = field(default=(), repr=False)

    @property
    def origin(self) -> Origin | None:
        """Repository and commit on the Hub of a checkpoint that lies in its cache, None for any other."""
        return origin_of(self.path)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over names and bytes of the weight, configuration and tokenizer files, as hexadecimal digits.

        Read on first use, at the speed of the disk; a copy of the checkpoint elsewhere has the same hash. What was put
        on top counts: LoRAs with their bytes and scales, and so on. With it, it is another checkpoint.

        Raises:
            CheckpointError: a file is empty or cannot be read; one that holds no weights is too large.
        """
        root = self.path if self.path.is_dir() else self.path.parent
        weights = {file for component in self.components.values() for file in component.weight_files}
        for file in (*self.hashed_files, *self.vae_files, *chain.from_iterable(self.control_files)):
            check_readable(file, None if file in weights else MOST_BYTES)
        try:
            own = hash_tree(root, self.hashed_files)
            for files, control in zip(self.control_files, self.family.controls, strict=True):
                scale = [] if control.scale == 1 else [control.scale]
                own = hash_json([own, hash_tree(files[0].parent, files), *scale])
        except OSError as error:
            raise CheckpointError("every file of the checkpoint must be readable", error) from error
        if self.loras:
            own = hash_json([own, *([lora.sha256, lora.file.scale] for lora in self.loras)])
        embeddings = [[embedding.sha256, *embedding.tokens] for embedding in self.embeddings]
        further: dict[str, Any] = {"embeddings": embeddings} if embeddings else {}
        further |= {"vae": self._vae_hash} if self.vae_files else {}
        further |= {} if self.clip_skip is None else {"clip_skip": self.clip_skip}
        return hash_json([own, further]) if further else own

    @property
    def changes(self) -> dict[str, Any]:
        """What files were put on top of it, by kind, as a bundle keeps it: names, hashes and how; empty for none."""
        changes: dict[str, Any] = {}
        if self.loras:
            changes["loras"] = [lora.to_json() for lora in self.loras]
        if self.embeddings:
            changes["embeddings"] = [embedding.to_json() for embedding in self.embeddings]
        if self.vae_files:
            info = self.components[self.family.decoder.model]
            changes["vae"] = {
                "name": name_of(info.path),
                "class_name": info.class_name,
                "sha256": self._vae_hash,
            }
        return changes

    @cached_property
    def _vae_hash(self) -> str:
        """SHA-256 of a single file, or over names and bytes of those of a folder."""
        try:
            file, *more = self.vae_files
            return hash_tree(file.parent, self.vae_files) if more else hash_file(file)
        except OSError as error:
            raise CheckpointError("every file of an autoencoder must be readable", error) from error

    @property
    def added_tokens(self) -> tuple[str, ...]:
        """Tokens that the tokenizer's files do not have, in the order of their identifiers."""
        return tuple(token for embedding in self.embeddings for token in embedding.tokens)

    @cached_property
    def misfits(self) -> dict[str, SdmobileError]:
        """Models whose stored names, shapes or types are not those of the module that their configuration makes."""
        from sdmobile.checkpoints.load import checked_module

        return self._failures(checked_module, tuple(self.components))

    @cached_property
    def unreadable(self) -> dict[str, SdmobileError]:
        """Models with a weight that is NaN or infinite, or cannot be read; those that misfit are left out."""
        from sdmobile.checkpoints.arrays import check_values

        return self._failures(check_values, tuple(name for name in self.components if name not in self.misfits))

    def _failures(self, check: Callable[[Checkpoint, str], object], names: tuple[str, ...]) -> dict[str, SdmobileError]:
        failures: dict[str, SdmobileError] = {}
        for name in names:
            try:
                check(self, name)
            except SdmobileError as error:
                failures[name] = error
        return failures

    @property
    def undecided(self) -> SdmobileError | None:
        """Why it is not known how to sample it, None where it is.

        The name, or that of a LoRA, says that it was distilled to few steps, and neither scheduler, model card nor user
        says how: taken for an ordinary one, it draws wrong pictures.
        """
        from sdmobile.families.few_steps import KINDS, hinted, says_how

        hint = hinted((*self.called, *(name for lora in self.loras for name in lora.called)))
        if hint is None or self.given.distilled is not None or not self.family.distillable:
            return None
        distilled, name = hint
        if says_how(self.scheduler_config, distilled):
            return None
        title = KINDS[distilled.kind].title if distilled.kind else "few steps"
        return UsageError(
            "a checkpoint that was distilled to few steps needs its own sampler, which no scheduler or model card says",
            f"{name!r} looks like {title}",
            f"Say it: --distilled {distilled.example}, or --distilled none if it is an ordinary one.",
        )

    @property
    def usual_steps(self) -> int:
        """Sampling steps where the user does not say."""
        return self.family.default_steps if self.steps is None else self.steps

    @property
    def usual_guidance_scale(self) -> float:
        """Guidance scale where the user does not say; 0 is one too."""
        return self.family.default_guidance_scale if self.guidance_scale is None else self.guidance_scale

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the picture, in pixels."""
        height, width = self.latent_size
        return height * self.vae_scale_factor, width * self.vae_scale_factor
