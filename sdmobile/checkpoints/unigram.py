"""T5's tokenizer: pieces of SentencePiece, each with a score; a text becomes the pieces of the largest sum.

spiece.model        SentencePiece's own file, which other programs read too
tokenizer.json      the same and its surroundings, as Transformers saves it; where both are, this one counts

Kudo, "Subword Regularization", arXiv 1804.10959 (the unigram model). Transformers reads either.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from sdmobile.checkpoints.vocabulary import CONFIG, WHOLE, Vocabulary, context_length
from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families.t5 import PAD
from sdmobile.families.tokenizer_kinds import SENTENCEPIECE

if TYPE_CHECKING:
    from pathlib import Path

_SENTINELS = "<extra_id_"


def check(tokenizer: Any, folder: Path) -> None:
    """Raises UnsupportedError where a tokenizer splits texts by other means, or fills them up with what is not masked.

    Args:
        tokenizer: Transformers' T5Tokenizer.
        folder: for the message.
    """
    kind = json.loads(tokenizer.backend_tokenizer.to_str())["model"].get("type")
    if kind != "Unigram":
        raise UnsupportedError("the tokenizer of T5 must be of the unigram model", f"{folder}: {kind}")
    if tokenizer.pad_token_id != PAD:
        shown = f"{folder}: {tokenizer.pad_token!r} ({tokenizer.pad_token_id})"
        raise UnsupportedError(f"the tokenizer of T5 must fill texts up with the identifier {PAD}", shown)


def check_pieces(path: Path) -> None:
    """Raises CheckpointError unless a file is a model of SentencePiece: no other file is read as one, or copied.

    Args:
        path: `spiece.model`, of bounded size; beside a `tokenizer.json` nothing else reads it.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    model: Any = sentencepiece_model_pb2.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
    try:
        model.ParseFromString(path.read_bytes())
        pieces = [piece.piece for piece in model.pieces]
    except (DecodeError, ValueError) as error:
        raise CheckpointError("spiece.model must be a model of SentencePiece", f"{path}: {error}") from error
    if not pieces:
        raise CheckpointError("spiece.model must be a model of SentencePiece", f"{path} holds no piece")


def vocabulary(tokenizer: Any) -> Vocabulary:
    """Returns what a T5Tokenizer knows; nothing begins a text, and there are no merges."""
    return Vocabulary(
        tokens=tokenizer.get_vocab(),
        merges=(),
        added={},
        bos_token=None,
        eos_token=str(tokenizer.eos_token),
        pad_token=str(tokenizer.pad_token),
        unk_token=str(tokenizer.unk_token),
        length=context_length(tokenizer.model_max_length),
    )


def write(folder: Path, source: Path, tokenizer: Any) -> Vocabulary:
    """Writes a tokenizer into a bundle.

    Args:
        folder: gets tokenizer.json, tokenizer_config.json and, where the source has it, spiece.model.
        source: the checkpoint's tokenizer.
        tokenizer: that Transformers made of it.
    """
    known = vocabulary(tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    # How a text was cut off and filled up last, which is no part of it.
    whole |= {"truncation": None, "padding": None}
    (folder / WHOLE).write_text(json.dumps(whole, ensure_ascii=False), encoding="utf-8")
    config = {
        "tokenizer_class": "T5Tokenizer",
        **{key: getattr(known, key) for key in ("eos_token", "pad_token", "unk_token")},
        "extra_ids": sum(token.startswith(_SENTINELS) for token in known.tokens),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if (source / SENTENCEPIECE).is_file():
        shutil.copyfile(source / SENTENCEPIECE, folder / SENTENCEPIECE)
    return known
