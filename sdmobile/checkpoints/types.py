"""What a recognised checkpoint is: facts from headers and configurations, no weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from sdmobile.basics.files import hash_tree
from sdmobile.errors import CheckpointError
from sdmobile.families.family import Facts

if TYPE_CHECKING:
    from pathlib import Path

    from sdmobile.families.family import Family


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
    """

    name: str
    path: Path
    class_name: str
    config: dict[str, Any]
    parameters: int
    dtype: str
    bytes: int
    weight_files: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Facts):
    """A checkpoint of a known family; the further fields are those of `Facts`.

    Args:
        family: what kind of model it is.
        path: the Diffusers folder or the single file.
        name: name for people.
        format: "diffusers" or "single_file".
        components: its models by name.
        tokenizer_dir: folder of the CLIPTokenizer, if there is one.
        license: SPDX identifier or name, None where the checkpoint does not say.
        guidance_scale: guidance scale that the model card recommends, None where it does not.
        notes: where configuration and tensors disagree, and what was assumed.
        hashed_files: files that make the checkpoint what it is, relative to `path` (or its parent).
    """

    family: Family
    path: Path
    name: str
    format: Literal["diffusers", "single_file"]
    components: dict[str, ComponentInfo]
    tokenizer_dir: Path | None
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
        try:
            return hash_tree(root, self.hashed_files)
        except OSError as error:
            raise CheckpointError("every file of the checkpoint must be readable", error) from error

    @property
    def image_size(self) -> int:
        """Height = width of the picture, in pixels."""
        return self.latent_size * self.vae_scale_factor
