"""Learned words (textual inversion): vectors in the place of what a token embedding gives for a word.

    Diffusers      {"<cat>": [d] or [n, d]}                                  learned_embeds.safetensors or .bin
    AUTOMATIC1111  {"emb_params": [n, d]}, {"string_to_param": {"*": [n, d]}, "name": …}     .safetensors, .pt
    two encoders   {"clip_l": [n, d], "clip_g": [n, d']}, by the names that the family states             .safetensors

Gal et al., "An Image is Worth One Word", arXiv 2208.01618. As Diffusers' `load_textual_inversion`: the first vector is
the token, the others are token_1, token_2, …; a prompt with the token gets all of them. Capitals are small letters, as
everywhere in CLIP's texts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.basics.files import hash_file
from sdmobile.checkpoints.headers import TensorInfo, read_header
from sdmobile.checkpoints.hub import HubName, name_of
from sdmobile.checkpoints.hub_parts import EMBEDDING, located
from sdmobile.errors import CheckpointError, UsageError
from sdmobile.families.clip import TOKEN_ROWS

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from sdmobile.checkpoints.types import Checkpoint, ComponentInfo

_SUFFIXES = (".safetensors", ".pt", ".bin")
_NAMELESS = ("emb_params", "*")
_ONLY = "text_encoder"
_MOST_VECTORS = 1024
_MOST_CHARACTERS = 64
_RULE = "an embedding must be one tensor of one or several vectors, in Diffusers' or AUTOMATIC1111's format"


@dataclass(frozen=True)
class EmbeddingFile:
    """A learned word as a user names it.

    Args:
        path: a .safetensors, .pt or .bin file.
        token: what stands for it in prompts; None for the file's own.
    """

    path: Path
    token: str | None = None

    @classmethod
    def parse(cls, text: str) -> EmbeddingFile:
        """Reads `FILE` or `FILE:TOKEN`; what has a name on the Hub is downloaded.

        Raises:
            UsageError: the token is empty.
            CheckpointError: the Hub has no such embedding, or cannot be read.
        """
        file, colon, token = text.rpartition(":")
        is_file = file.lower().endswith(_SUFFIXES) or HubName.parse(file) is not None
        if not colon or Path(text).exists() or not is_file:
            return cls(located(text, EMBEDDING))
        if not token:
            raise UsageError("the token of an embedding must not be empty", text, "Write FILE:TOKEN, or FILE alone")
        return cls(located(file, EMBEDDING), token)

    def __str__(self) -> str:
        """Returns file name and token, as `--embedding` takes them."""
        return name_of(self.path) + ("" if self.token is None else f":{self.token}")

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object, for another process."""
        return {"path": str(self.path), "token": self.token}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EmbeddingFile:
        """Returns what `to_json` wrote."""
        return cls(Path(data["path"]), data["token"])


@dataclass(frozen=True)
class Embedding:
    """An opened learned word that fits the checkpoint's text encoders.

    Args:
        file: as the user named it.
        tokens: token, token_1, …; one per vector.
        first_row: of the token embedding, which is the first token's identifier; the others follow.
        tensors: which of the file's is each text encoder's, by model; empty where there is one.
    """

    file: EmbeddingFile
    tokens: tuple[str, ...]
    first_row: int
    tensors: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For people."""
        return name_of(self.file.path)

    @cached_property
    def sha256(self) -> str:
        """Of the file's bytes; read on first use."""
        try:
            return hash_file(self.file.path)
        except OSError as error:
            raise CheckpointError("an embedding must be readable", error) from error

    @property
    def note(self) -> str:
        """One sentence on what it does."""
        count, last = len(self.tokens), self.first_row + len(self.tokens) - 1
        rows = f"{count} vectors, rows {self.first_row} to {last}" if count > 1 else f"row {self.first_row}"
        return f"embedding: {self.name} is the word {self.tokens[0]} ({rows} of the token embedding)"

    def vectors(self, model: str) -> NDArray[np.float32]:
        """Returns the vectors [n, d] for a text encoder."""
        return _read(self.file.path, self.tensors)[1][self.tensors.get(model, model)]

    def to_json(self) -> dict[str, Any]:
        """Returns what a bundle keeps of it."""
        return {"name": self.name, "sha256": self.sha256, "tokens": list(self.tokens)}


def open_embedding(file: EmbeddingFile, checkpoint: Checkpoint, text_encoders: Sequence[ComponentInfo]) -> Embedding:
    """Reads a learned word and finds its token's place in the vocabulary.

    Args:
        file: as the user names it.
        checkpoint: whose tokenizer, with the words before, gets the token.
        text_encoders: the same checkpoint's, whose token embeddings get the rows.

    Raises:
        CheckpointError: damaged, not finite, of another width, or the token is in the vocabulary already; or the
            checkpoint has no tokenizer.
    """
    from sdmobile.checkpoints.tokenizers import check_vocabulary, read_vocabulary, require_tokenizer

    names = checkpoint.family.word_tensors
    own, found = _read(file.path, names)
    for encoder in text_encoders:
        vectors = found[names.get(encoder.name, encoder.name)]
        width = encoder.tensors[TOKEN_ROWS].shape[1]
        if vectors.shape[1] != width:
            raise CheckpointError(
                f"the vectors of an embedding must have the width of the text encoder, {width}",
                f"{file.path}: {vectors.shape[1]}",
                "Give an embedding that was made for this kind of model.",
            )
    rows = min(encoder.tensors[TOKEN_ROWS].shape[0] for encoder in text_encoders)
    count = {len(vectors) for vectors in found.values()}
    if len(count) > 1:
        raise CheckpointError("an embedding must have as many vectors for each text encoder", f"{file.path}: {count}")
    token = _checked_token(file.token or own, file.path).lower()  # as the tokenizer reads a prompt
    tokens = (token, *(f"{token}_{index}" for index in range(1, count.pop())))
    folder = require_tokenizer(checkpoint)
    vocabulary = read_vocabulary(folder, checkpoint.pad_token, checkpoint.added_tokens)
    check_vocabulary(vocabulary, rows, folder)
    known = vocabulary.all
    if taken := [name for name in (*tokens, f"{token}_1") if name in known]:
        rule = "the token of an embedding must not be in the vocabulary yet"
        raise CheckpointError(rule, f"{file.path}: {taken[0]}", "Choose another: --embedding FILE:TOKEN.")
    return Embedding(file, tokens, len(known), names)


def with_rows(text_encoder: ComponentInfo, embedding: Embedding) -> ComponentInfo:
    """Returns what a text encoder is with the rows of a learned word; some may be spare rows of the stored matrix."""
    stored = text_encoder.tensors[TOKEN_ROWS]
    rows = max(stored.shape[0], embedding.first_row + len(embedding.tokens))
    added = rows - stored.shape[0]
    longer = replace(stored, shape=(rows, stored.shape[1]), added=stored.added + added)
    return replace(
        text_encoder,
        config={**text_encoder.config, "vocab_size": rows},
        tensors={**text_encoder.tensors, TOKEN_ROWS: longer},
        parameters=text_encoder.parameters + added * stored.shape[1],
    )


def _checked_token(token: str, path: Path) -> str:
    odd = not token.isprintable() or any(c.isspace() or c in "`|" for c in token)
    if odd or not 0 < len(token) <= _MOST_CHARACTERS:
        raise CheckpointError(
            f"the token of an embedding must be a word of at most {_MOST_CHARACTERS} printable characters, none ` or |",
            f"{path}: {token!r}"[:400],
            "Name it: --embedding FILE:TOKEN.",
        )
    return token


def _read(path: Path, names: Mapping[str, str]) -> tuple[str, dict[str, NDArray[np.float32]]]:
    """Returns the token and the vectors [n, d] of a file, by tensor; of the only one by "text_encoder"."""
    import numpy as np

    from sdmobile.checkpoints.arrays import read_array

    own, stored = _stored(path, names)
    found: dict[str, NDArray[np.float32]] = {}
    for name, one in stored.items():
        is_info = isinstance(one, TensorInfo)
        shape, dtype = tuple(one.shape), str(one.dtype).removeprefix("torch.")
        is_float = one.is_float if is_info else one.is_floating_point()
        if len(shape) not in (1, 2) or not is_float or not 1 <= math.prod(shape) <= 1 << 24:
            raise CheckpointError(_RULE, f"{path}: {dtype} {list(shape)}")
        values = read_array(one) if is_info else one.detach().float().numpy()
        found[name] = vectors = values.reshape(-1, shape[-1])
        if len(vectors) > _MOST_VECTORS:
            raise CheckpointError(f"an embedding has at most {_MOST_VECTORS} vectors", f"{path}: {len(vectors)}")
        if not np.isfinite(vectors).all():
            raise CheckpointError("the vectors of an embedding must be finite", path)
    return path.stem if own in _NAMELESS else own, found


def _stored(path: Path, names: Mapping[str, str]) -> tuple[str, Mapping[str, TensorInfo | torch.Tensor]]:
    """Returns the token of a file and the tensors that it must hold; those of a safetensors file are not read."""
    if not names:
        own, one = _one_stored(path)
        return own, {_ONLY: one}
    wanted = set(names.values())
    rule = f"an embedding for two text encoders is a .safetensors file with {' and '.join(sorted(wanted))}"
    if path.suffix.lower() != ".safetensors":
        raise CheckpointError(rule, path)
    header = read_header(path)[0]
    if set(header) != wanted:
        raise CheckpointError(rule, f"{path} has {', '.join(sorted(header)[:4]) or 'nothing'}")
    return path.stem, header


def _one_stored(path: Path) -> tuple[str, TensorInfo | torch.Tensor]:
    """Returns the tensor of a file under its name; pickles are read without running anything."""
    if path.suffix.lower() not in _SUFFIXES:
        raise CheckpointError(f"an embedding must be a file in {', '.join(_SUFFIXES)}", path)
    if path.suffix.lower() == ".safetensors":
        header = read_header(path)[0]
        name = _only(path, list(header))
        return name, header[name]
    from sdmobile.checkpoints.pickles import load_state

    state = load_state(path)[0]
    import torch

    stated: dict[Any, Any] = state if isinstance(state, dict) else {}
    params = stated.get("string_to_param", stated)
    tensors = {str(key): value for key, value in params.items() if isinstance(value, torch.Tensor)} if params else {}
    name = _only(path, list(tensors))
    own = stated.get("name") if params is not stated else None
    return own if isinstance(own, str) and own else name, tensors[name]


def _only(path: Path, names: list[str]) -> str:
    if len(names) != 1:
        shown = ", ".join(sorted(names)[:3])
        raise CheckpointError(_RULE, f"{path} has {len(names)} tensors{f', such as {shown}' if shown else ''}")
    return names[0]
