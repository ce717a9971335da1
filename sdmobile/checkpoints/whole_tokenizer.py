"""Tokenizers that are kept whole, in `tokenizer.json`: T5's, Gemma's and Qwen's.

    T5          pieces of SentencePiece, each with a score; a text becomes the pieces of the largest sum
    Gemma       pairs of pieces are joined in a fixed order; what no piece has becomes its bytes
    Qwen        pairs of bytes are joined in a fixed order, within words

T5's may be in SentencePiece's own file, spiece.model, which other programs read too; where both are, tokenizer.json
counts. Kudo, "Subword Regularization", arXiv 1804.10959 (the unigram model); Sennrich et al., arXiv 1508.07909 (pairs).
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from sdmobile.checkpoints.vocabulary import CONFIG, WHOLE, Vocabulary, context_length
from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families.tokenizer_kinds import SENTENCEPIECE

if TYPE_CHECKING:
    from pathlib import Path

    from sdmobile.families.tokenizer_kinds import TokenizerKind

_SENTINELS = "<extra_id_"
_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")


def check_model(document: Any, path: Path, kind: TokenizerKind) -> None:
    """Raises UnsupportedError where `tokenizer.json` splits by other means: a class would make its own of the pieces.

    Args:
        document: the file's; older ones do not say their model.
        path: for the message.
        kind: the family's.
    """
    model = document.get("model") if isinstance(document, dict) else None
    stated = model.get("type", kind.model) if isinstance(model, dict) else None
    if stated != kind.model:
        raise UnsupportedError(f"the tokenizer must be {kind.title}, whose model is {kind.model}", f"{path}: {stated}")


def check(tokenizer: Any, folder: Path, kind: TokenizerKind) -> None:
    """Raises UnsupportedError where a tokenizer splits texts by other means, or fills them up with what is not masked.

    Args:
        tokenizer: of the kind's class.
        folder: for the message.
        kind: the family's.
    """
    model = type(tokenizer.backend_tokenizer.model).__name__
    if model != kind.model:
        raise UnsupportedError(f"the tokenizer must be {kind.title}, whose model is {kind.model}", f"{folder}: {model}")
    if tokenizer.pad_token_id != kind.pad:
        shown = f"{folder}: {tokenizer.pad_token!r} ({tokenizer.pad_token_id})"
        raise UnsupportedError(f"the tokenizer must fill texts up with the identifier {kind.pad}", shown)


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
    """Returns what a tokenizer knows; its merges, if there are any, stay in `tokenizer.json`."""
    begins = tokenizer.bos_token_id in tokenizer("")["input_ids"]
    return Vocabulary(
        tokens=tokenizer.get_vocab(),
        merges=(),
        added={},
        bos_token=str(tokenizer.bos_token) if begins else None,
        eos_token=str(tokenizer.eos_token),
        pad_token=str(tokenizer.pad_token),
        unk_token=str(tokenizer.unk_token),
        length=context_length(tokenizer.model_max_length),
    )


def write(folder: Path, source: Path, tokenizer: Any, kind: TokenizerKind) -> Vocabulary:
    """Writes a tokenizer into a bundle.

    Args:
        folder: gets tokenizer.json, tokenizer_config.json and, of T5's kind where the source has it, spiece.model.
        source: the checkpoint's tokenizer.
        tokenizer: that Transformers made of it.
        kind: the family's.
    """
    known = vocabulary(tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    # How a text was cut off and filled up last, which is no part of it.
    whole |= {"truncation": None, "padding": None}
    (folder / WHOLE).write_text(json.dumps(whole, ensure_ascii=False), encoding="utf-8")
    sentinels = sum(token.startswith(_SENTINELS) for token in known.tokens)
    config = {
        "tokenizer_class": kind.class_name,
        **{key: token for key in _NAMED if (token := getattr(known, key)) is not None},
        **({"mask_token": str(tokenizer.mask_token)} if tokenizer.mask_token else {}),
        **({"extra_ids": sentinels} if SENTENCEPIECE in kind.files else {}),
        **({"padding_side": kind.padding_side} if kind.padding_side else {}),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if SENTENCEPIECE in kind.files and (source / SENTENCEPIECE).is_file():
        shutil.copyfile(source / SENTENCEPIECE, folder / SENTENCEPIECE)
    return known
