"""What a user puts on top of a checkpoint: LoRAs, learned words, another autoencoder, less text encoder, few steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.checkpoints.embeddings import EmbeddingFile
from sdmobile.checkpoints.hub import name_of
from sdmobile.checkpoints.lora import LoraFile
from sdmobile.errors import UnsupportedError, UsageError
from sdmobile.families.clip import without_last_layers
from sdmobile.families.component import Role
from sdmobile.families.few_steps import Distillation

if TYPE_CHECKING:
    from sdmobile.checkpoints.embeddings import Embedding
    from sdmobile.checkpoints.types import Checkpoint

MOST = 64
"""Of LoRAs and of embeddings; a bundle's manifest takes no more."""


@dataclass(frozen=True)
class Changes:
    """What a user asks for, as files and numbers; nothing is opened yet.

    Args:
        loras: fused into the weights whenever a model is loaded, one after the other.
        embeddings: learned words (textual inversion), added to tokenizer and token embedding.
        vae: folder or single file of the autoencoder that takes the place of the checkpoint's.
        clip_skip: layers left out at the end of the text encoder; None for none.
        distilled: how the checkpoint, or what a LoRA makes of it, was distilled to few steps; None where it was not or
            says so itself.
    """

    loras: tuple[LoraFile, ...] = ()
    embeddings: tuple[EmbeddingFile, ...] = ()
    vae: Path | None = None
    clip_skip: int | None = None
    distilled: Distillation | None = None

    def __post_init__(self) -> None:
        for what, files in (("LoRAs", self.loras), ("embeddings", self.embeddings)):
            if len(files) > MOST:
                raise UsageError(f"at most {MOST} {what} go into a checkpoint", len(files), "Merge some first.")
        if self.clip_skip is not None and self.clip_skip < 1:
            raise UsageError("--clip-skip is a number of layers, at least 1", self.clip_skip)

    @property
    def options(self) -> list[str]:
        """The options that ask for it, with the names of files."""
        given = [f"--lora {file}" for file in self.loras] + [f"--embedding {file}" for file in self.embeddings]
        given += [] if self.vae is None else [f"--vae {name_of(self.vae)}"]
        given += [] if self.clip_skip is None else [f"--clip-skip {self.clip_skip}"]
        return given + ([] if self.distilled is None else [f"--distilled {self.distilled}"])

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object, for another process."""
        return {
            "loras": [file.to_json() for file in self.loras],
            "embeddings": [file.to_json() for file in self.embeddings],
            "vae": None if self.vae is None else str(self.vae),
            "clip_skip": self.clip_skip,
            "distilled": None if self.distilled is None else str(self.distilled),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Changes:
        """Returns what `to_json` wrote."""
        return cls(
            tuple(LoraFile.from_json(item) for item in data["loras"]),
            tuple(EmbeddingFile.from_json(item) for item in data["embeddings"]),
            None if data["vae"] is None else Path(data["vae"]),
            data["clip_skip"],
            None if data["distilled"] is None else Distillation.parse(data["distilled"]),
        )


UNCHANGED = Changes()
KINDS = ("loras", "embeddings", "vae")
"""Of `Checkpoint.changes`, and of a manifest's source, in this order."""


def nameless(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the changes of a checkpoint or a manifest without the names of files, which decide nothing."""

    def plain(item: Any) -> Any:
        return {key: value for key, value in item.items() if key != "name"}

    return {kind: plain(value) if isinstance(value, dict) else [*map(plain, value)] for kind, value in changes.items()}


def options_of(changes: Mapping[str, Any]) -> list[str]:
    """Returns the options that ask for the changes of a checkpoint or a manifest."""
    options = [f"--lora {item['name']}:{item['scale']!r}" for item in changes.get("loras", ())]
    options += [f"--embedding {item['name']}:{item['tokens'][0]}" for item in changes.get("embeddings", ())]
    return options + ([f"--vae {changes['vae']['name']}"] if "vae" in changes else [])


def changed(checkpoint: Checkpoint, changes: Changes) -> Checkpoint:
    """Returns the checkpoint with everything but the autoencoder, which belongs to its parts from the beginning.

    Raises:
        CheckpointError: a file is damaged, of another model, or has a key or a token that does not fit.
        UsageError: more layers shall be left out than there are.
    """
    for file in changes.embeddings:
        checkpoint = _with_word(checkpoint, file)
    if changes.loras:
        from sdmobile.checkpoints.lora import open_lora

        _require_clip(checkpoint, f"--lora {changes.loras[0]}", "LoRAs go with a UNet or CLIP's text encoder")
        loras = tuple(open_lora(file, checkpoint.components) for file in changes.loras)
        checkpoint = replace(checkpoint, loras=loras, notes=(*checkpoint.notes, *(lora.note for lora in loras)))
    return checkpoint if changes.clip_skip is None else _cut(checkpoint, changes.clip_skip)


def _with_word(checkpoint: Checkpoint, file: EmbeddingFile) -> Checkpoint:
    """Returns the checkpoint with one more learned word: further rows of the token embeddings."""
    from sdmobile.checkpoints.embeddings import open_embedding, with_rows

    _require_clip(checkpoint, f"--embedding {file}", "learned words go with CLIP's tokenizer and text encoder")
    encoders = [checkpoint.components[part.model] for part in checkpoint.family.of_role(Role.TEXT_ENCODER)]
    embedding: Embedding = open_embedding(file, checkpoint, encoders)
    return replace(
        checkpoint,
        components={**checkpoint.components, **{one.name: with_rows(one, embedding) for one in encoders}},
        embeddings=(*checkpoint.embeddings, embedding),
        notes=(*checkpoint.notes, embedding.note),
    )


def _require_clip(checkpoint: Checkpoint, option: str, rule: str) -> None:
    """Raises UnsupportedError for what a user asks of CLIP where the text encoder is another."""
    family = checkpoint.family
    if not family.tokenizer_kind.takes_words:
        raise UnsupportedError(rule, f"{option}: {family.title} has {family.tokenizer_kind.title}", "Leave it out.")


def _cut(checkpoint: Checkpoint, layers: int) -> Checkpoint:
    """Returns the checkpoint without the last layers of its text encoder, whose weights are not read any more."""
    _require_clip(checkpoint, f"--clip-skip {layers}", "layers are left out of CLIP's text encoder")
    encoder, *more = checkpoint.family.of_role(Role.TEXT_ENCODER)
    if more:
        raise UnsupportedError(
            "--clip-skip goes with one text encoder",
            f"{checkpoint.family.title} has two, and leaves out their last layer already (clip skip 2 elsewhere)",
            "Leave it out.",
        )
    name = encoder.model
    info = checkpoint.components[name]
    config, prefixes = without_last_layers(info.config, layers)
    kept = {key: tensor for key, tensor in info.tensors.items() if not key.startswith(prefixes)}
    cut = replace(
        info,
        config=config,
        tensors=kept,
        parameters=sum(tensor.elements for tensor in kept.values() if tensor.is_float),
        bytes=sum(tensor.bytes for tensor in kept.values() if tensor.is_float),
    )
    total = info.config["num_hidden_layers"]
    note = f"{name}: {layers} of {total} layers are left out at the end (--clip-skip), for the negative text too"
    return replace(
        checkpoint,
        components={**checkpoint.components, name: cut},
        clip_skip=layers,
        notes=(*checkpoint.notes, note),
    )
