"""Tokenizers in all forms in which they are stored: read, checked against the text encoder, written for bundles.

vocab.json + merges.txt     CLIP's, with tokenizer_config.json, special_tokens_map.json, added_tokens.json as they are
spiece.model                T5's, see `whole_tokenizer`
tokenizer.json              any kind's, alone, as Transformers 5 saves it
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from sdmobile.checkpoints import whole_tokenizer
from sdmobile.checkpoints.headers import check_readable
from sdmobile.checkpoints.jsonfile import MOST_BYTES, read_json
from sdmobile.checkpoints.vocabulary import (
    ADDED,
    CONFIG,
    SPECIAL,
    WHOLE,
    Vocabulary,
    context_length,
    expansions_of,
    plain_vocabulary,
)
from sdmobile.errors import CheckpointError, UnsupportedError, UsageError
from sdmobile.families.clip import TOKENIZER_FILES as FILES
from sdmobile.families.tokenizer_kinds import CLIP, SENTENCEPIECE, TokenizerKind

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from sdmobile.checkpoints.types import Checkpoint

# Files that say which token pads; where none is, CLIPTokenizer assumes the one that ends a text.
_STATING = (CONFIG, SPECIAL, WHOLE)
_MOST_TOKENS = 1_000_000
_TEXTS = ("a photo of a cat", "")
_SOURCES = "Put a folder `tokenizer` beside the checkpoint, or give one: --tokenizer DIR."


def is_tokenizer(folder: Path, kind: TokenizerKind = CLIP) -> bool:
    """Whether a folder holds a tokenizer of a kind in one of the known forms."""
    return (folder / WHOLE).is_file() or all((folder / name).is_file() for name in kind.files)


def tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """Returns the files of a folder that decide what its tokenizer does, of whatever kind it is."""
    names = (*FILES, SENTENCEPIECE, *_STATING, ADDED)
    return tuple(folder / name for name in names if (folder / name).is_file())


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """Loads the tokenizer of a checkpoint, in Transformers' class.

    Raises:
        CheckpointError: there is no tokenizer, or its files cannot be read.
    """
    folder, kind = require_tokenizer(checkpoint), checkpoint.family.tokenizer_kind
    return tokenizer_from(folder, checkpoint.pad_token, checkpoint.added_tokens, kind)


def require_tokenizer(checkpoint: Checkpoint) -> Path:
    """Returns the folder of a checkpoint's tokenizer.

    Raises:
        CheckpointError: there is none; the message names where the usual ones come from.
        UnsupportedError: there is another one for a second text encoder, that splits texts otherwise.
    """
    if checkpoint.tokenizer_dir is None:
        fix = f"{_SOURCES} {checkpoint.family.tokenizer_kind.where}"
        raise CheckpointError("a prompt needs the checkpoint's tokenizer", f"{checkpoint.path} has none", fix)
    if checkpoint.family.second_pad is not None:
        check_second(checkpoint.tokenizer_dir, checkpoint.family.second_pad)
    return checkpoint.tokenizer_dir


def tokenizer_from(
    folder: Path, pad_token: str | None = None, added_tokens: Sequence[str] = (), kind: TokenizerKind = CLIP
) -> Any:
    """Returns the tokenizer of a folder, in Transformers' class.

    Args:
        folder: with `tokenizer.json`, or the files of the kind.
        pad_token: fills up a text where the folder does not say which token does.
        added_tokens: learned words that the folder does not have, which get the next identifiers.
        kind: the family's.

    Raises:
        CheckpointError: a file is missing or damaged.
        UnsupportedError: it is of another kind.
    """
    _check_files(folder, kind)
    import transformers

    stated = any((folder / name).is_file() for name in _STATING)
    options: dict[str, Any] = {} if stated or pad_token is None else {"pad_token": pad_token}
    options |= {} if kind.padding_side is None else {"padding_side": kind.padding_side}
    try:
        tokenizer: Any = getattr(transformers, kind.class_name).from_pretrained(
            str(folder), local_files_only=True, **options
        )
        tokenizer([*_TEXTS], padding="max_length", max_length=8, truncation=True)
        for token in added_tokens:
            tokenizer.add_tokens(token)
        if not float(tokenizer.model_max_length) >= 1:
            raise ValueError(f"model_max_length is {tokenizer.model_max_length}")
    except BaseException as error:  # a panic of the Rust tokenizer is no Exception
        raise _explained(folder, error) from error
    if kind.model is not None:
        whole_tokenizer.check(tokenizer, folder, kind)
    return tokenizer


def text_length(folder: Path | None, kind: TokenizerKind, rows: int) -> int:
    """Returns the tokens of a text for a text encoder of which some rows are used.

        L = rows, or I + rows − 2 with an instruction of I tokens,

    so that the last rows − 1 of L begin with the instruction's last token, as in Diffusers' pipelines of SANA.

    Args:
        folder: of the tokenizer, None where there is none: then no instruction can be counted.
        kind: of the tokenizer.
        rows: that are used.

    Raises:
        CheckpointError, UnsupportedError: as `tokenizer_from`.
    """
    if folder is None or not kind.instruction:
        return rows
    length = len(tokenizer_from(folder, kind=kind)(kind.instruction)["input_ids"]) + rows - 2
    if length < rows:
        raise CheckpointError("a tokenizer must split its family's instruction into tokens", folder)
    return length


def token_ids(tokenizer: Any, text: str, length: int, kind: TokenizerKind = CLIP) -> list[int]:
    """Returns the identifiers of a text, which is prepared, cut off and filled up.

    Args:
        tokenizer: of `tokenizer_from`.
        text: as a user writes it.
        length: how many identifiers.
        kind: of the tokenizer.
    """
    ready = kind.prepared(written_out(text, tokenizer))
    return tokenizer([ready], padding="max_length", max_length=length, truncation=True)["input_ids"][0]


def _check_files(folder: Path, kind: TokenizerKind) -> None:
    """Raises CheckpointError unless a folder holds a tokenizer whose files are JSON and of bounded size."""
    if not is_tokenizer(folder, kind):
        missing = [name for name in kind.files if not (folder / name).is_file()]
        raise CheckpointError(kind.rule, f"{folder} lacks {missing}")
    for path in tokenizer_files(folder):
        check_readable(path, MOST_BYTES)
        if path.suffix == ".json":
            _check_identifiers(path, document := read_json(path))
            if path.name == WHOLE and kind.model is not None:
                whole_tokenizer.check_model(document, path, kind)
        if path.name == SENTENCEPIECE and SENTENCEPIECE in kind.files:
            whole_tokenizer.check_pieces(path)


def _check_identifiers(path: Path, document: Any) -> None:
    """Raises CheckpointError for an identifier that no vocabulary reaches.

    The native tokenizer makes room for all up to the largest, and ends the program where it gets none.
    """
    numbers: list[Any] = []
    if path.name in (FILES[0], "added_tokens.json") and isinstance(document, dict):
        numbers = list(document.values())
    elif path.name == WHOLE and isinstance(document, dict):
        model, added = document.get("model"), document.get("added_tokens")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        numbers = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
        numbers += [entry.get("id") for entry in added if isinstance(entry, dict)] if isinstance(added, list) else []
    wrong = next((n for n in numbers if isinstance(n, int | float) and not 0 <= n <= _MOST_TOKENS), None)
    if wrong is not None:
        rule = f"the identifiers of a vocabulary go from 0 to {_MOST_TOKENS} at most"
        raise CheckpointError(rule, f"{path}: {wrong}")


def _explained(folder: Path, error: BaseException) -> BaseException:
    """Returns a CheckpointError for whatever a library makes of damaged files; an interrupt stays what it is."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        return error
    text = (str(error).splitlines() or [""])[0]
    return CheckpointError("the tokenizer's files must be well-formed", f"{folder}: {type(error).__name__}: {text}")


def read_vocabulary(
    folder: Path, pad_token: str | None = None, added_tokens: Sequence[str] = (), kind: TokenizerKind = CLIP
) -> Vocabulary:
    """Returns what the tokenizer of a folder knows; arguments and errors as `tokenizer_from`."""
    if kind.model is not None:
        return whole_tokenizer.vocabulary(tokenizer_from(folder, pad_token, added_tokens, kind))
    _check_files(folder, kind)
    plain = plain_vocabulary(folder, pad_token, added_tokens)
    return _vocabulary(tokenizer_from(folder, pad_token, added_tokens)) if plain is None else plain


def _vocabulary(tokenizer: Any) -> Vocabulary:
    stored = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens: dict[str, int] = stored["model"]["vocab"]
    special = {str(tokenizer.bos_token), str(tokenizer.eos_token)}
    added = {entry["content"]: entry["id"] for entry in stored["added_tokens"] if entry["content"] not in special}
    return Vocabulary(
        tokens=tokens,
        merges=tuple((left, right) for left, right in stored["model"]["merges"]),
        added={token: number for token, number in added.items() if tokens.get(token) != number},
        bos_token=str(tokenizer.bos_token),
        eos_token=str(tokenizer.eos_token),
        pad_token=str(tokenizer.pad_token),
        unk_token=str(tokenizer.unk_token),
        length=context_length(tokenizer.model_max_length),
    )


def check_second(first: Path, pad: int) -> None:
    """Raises UnsupportedError unless the tokenizer of a second text encoder differs in what it fills texts up with.

    Args:
        first: folder of the first one's; the second lies beside it, or nowhere.
        pad: identifier that fills up the second one's texts.
    """
    second = first.with_name("tokenizer_2")
    if first.name != "tokenizer" or not is_tokenizer(second):
        return
    one, two = read_vocabulary(first), read_vocabulary(second)
    if (one.all, one.merges, one.eos_token) != (two.all, two.merges, two.eos_token):
        raise UnsupportedError("both tokenizers of a checkpoint must have one vocabulary", f"{second} has another")
    if two.identifier(two.pad_token) != pad:
        shown = f"{two.pad_token!r} ({two.identifier(two.pad_token)})"
        raise UnsupportedError(f"{second} must fill texts up with the identifier {pad}", shown)


def check_vocabulary(vocabulary: Vocabulary, rows: int, folder: Path) -> None:
    """Raises CheckpointError unless every token that a text can become has a row in the text encoder.

    Args:
        vocabulary: of the checkpoint.
        rows: of the token embedding.
        folder: for the message.
    """
    known = vocabulary.all
    for what in ("bos_token", "eos_token", "pad_token"):
        token = getattr(vocabulary, what)
        if token is not None and token not in known:
            raise CheckpointError(f"the {what} of a tokenizer must be in its vocabulary", f"{folder}: {token}")
    beyond = [token for token, number in known.items() if not 0 <= number < rows]
    if beyond:
        raise CheckpointError(
            "every token must have a row in the text encoder's embedding",
            f"{folder}: {len(beyond)} of {len(known)} have none in {rows} rows, among them {beyond[0]!r}",
            "Give the tokenizer that the checkpoint was made with: --tokenizer DIR.",
        )


def write_vocabulary(
    folder: Path,
    source: Path,
    pad_token: str | None = None,
    added_tokens: Sequence[str] = (),
    kind: TokenizerKind = CLIP,
) -> Vocabulary:
    """Writes a tokenizer into a bundle: plain files that apps and libraries read alike, and what they do not say.

    Args:
        folder: gets vocab.json, merges.txt, tokenizer_config.json and, where there are some, added_tokens.json; of
            other kinds than CLIP's, what `whole_tokenizer.write` has.
        source: the checkpoint's tokenizer.
        pad_token, added_tokens, kind: as in `tokenizer_from`.
    """
    if kind.model is not None:
        return whole_tokenizer.write(folder, source, tokenizer_from(source, kind=kind), kind)
    vocabulary = read_vocabulary(source, pad_token, added_tokens)
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in vocabulary.merges)]
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": vocabulary.length,
        "do_lower_case": True,
        "add_prefix_space": False,
        **{key: getattr(vocabulary, key) for key in ("bos_token", "eos_token", "unk_token", "pad_token")},
    }
    texts = {
        "vocab.json": json.dumps(vocabulary.all, ensure_ascii=False),
        "merges.txt": "\n".join(lines) + "\n",
        "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
    }
    if vocabulary.added:
        texts["added_tokens.json"] = json.dumps(dict(vocabulary.added), ensure_ascii=False, indent=2) + "\n"
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return vocabulary


def written_out(text: str, tokenizer: Any) -> str:
    """Returns a text with every learned word of several vectors as token token_1 token_2 ….

    As Diffusers' `maybe_convert_prompt`, but in capitals too, which the tokenizer does not tell from small letters.
    """
    added: Collection[str] = tokenizer.added_tokens_encoder
    expansions = {token.lower(): " ".join(tokens) for token, tokens in expansions_of(added).items()}
    if not expansions:
        return text
    longest_first = sorted(added, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE)
    return pattern.sub(lambda match: expansions.get(match[0].lower(), match[0]), text)


def given_tokenizer(folder: Path, kind: TokenizerKind = CLIP) -> Path:
    """Returns the folder that a user gave; raises UsageError where it holds no tokenizer."""
    for place in (folder, folder / "tokenizer"):
        if is_tokenizer(place, kind):
            return place
    raise UsageError(f"--tokenizer must be a folder with {kind.forms}", folder)
