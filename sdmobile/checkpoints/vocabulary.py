"""What a tokenizer knows, and CLIP's plain files read without the library that runs it.

    vocab.json                                        identifiers of tokens, 0 to n - 1
    merges.txt                                        pairs in the order of their priority, one a line
    tokenizer_config.json, special_tokens_map.json    which tokens begin, end and fill up a text, where they are

Other forms, and files that are damaged or add tokens of their own, are left to the library: what it makes of them
counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any

from sdmobile.checkpoints.bpe import BOS, CONTEXT_LENGTH, EOS
from sdmobile.checkpoints.jsonfile import read_json
from sdmobile.families.clip import TOKENIZER_FILES

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

CONFIG, SPECIAL, ADDED, WHOLE = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
)
_DEFAULTS = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": EOS}
# Further tokens that a configuration may name, and lists of such.
_OTHERS = ("sep_token", "cls_token", "mask_token", "additional_special_tokens", "extra_special_tokens")
_UNBOUNDED = 1_000_000


@dataclass(frozen=True)
class Vocabulary:
    """What a tokenizer knows, whatever files it was read from.

    Args:
        tokens: identifiers of the vocabulary.
        merges: pairs in the order of their priority.
        added: identifiers of tokens that are looked for before anything is split, such as learned words.
        bos_token, eos_token, pad_token: that begin, end and fill up a text; None where nothing begins it.
        unk_token: stands for what is not in the vocabulary.
        length: of the longest text, in tokens.
    """

    tokens: Mapping[str, int]
    merges: tuple[tuple[str, str], ...]
    added: Mapping[str, int]
    bos_token: str | None
    eos_token: str
    pad_token: str
    unk_token: str
    length: int

    @property
    def expansions(self) -> dict[str, list[str]]:
        """What takes the place of learned words of several vectors; see `expansions_of`."""
        return expansions_of(self.added)

    @property
    def all(self) -> dict[str, int]:
        """Every token, added ones included, by identifier."""
        return dict(sorted({**self.tokens, **self.added}.items(), key=lambda item: (item[1], item[0])))

    def identifier(self, token: str) -> int:
        """Returns the identifier of a token of the vocabulary."""
        return self.all[token]


def expansions_of(added: Collection[str]) -> dict[str, list[str]]:
    """Returns what takes the place of each learned word of several vectors in a text: token, token_1, token_2, …"""
    return {
        token: [token, *takewhile(added.__contains__, (f"{token}_{index}" for index in count(1)))]
        for token in added
        if f"{token}_1" in added
    }


def context_length(stated: float) -> int:
    """Returns how many tokens a text may have by what a tokenizer states, 77 where that is no bound."""
    return int(stated) if stated < _UNBOUNDED else CONTEXT_LENGTH


def plain_vocabulary(folder: Path, pad_token: str | None, added_tokens: Sequence[str]) -> Vocabulary | None:
    """Returns what the plain files of a tokenizer say; None where they are not in the plain form.

    Args:
        folder: with vocab.json and merges.txt, which can be read.
        pad_token: fills up a text where no file says which token does.
        added_tokens: learned words that the files do not have, which get the next identifiers.
    """
    if any((folder / name).exists() for name in (WHOLE, ADDED)):
        return None
    tokens = read_json(folder / TOKENIZER_FILES[0])
    if not _is_numbered(tokens) or (named := _named(folder, tokens, pad_token)) is None:
        return None
    merges = _merges(folder / TOKENIZER_FILES[1], tokens)
    length = _config(folder, CONFIG).get("model_max_length", _UNBOUNDED)
    if merges is None or type(length) not in (int, float) or not length >= 1:
        return None
    new = [token for token in dict.fromkeys(added_tokens) if token not in tokens]
    added = {token: len(tokens) + index for index, token in enumerate(new)}
    return Vocabulary(tokens, merges, added, **named, length=context_length(length))


def _is_numbered(tokens: Any) -> bool:
    """Whether tokens have the identifiers 0 to n - 1, one each."""
    if not isinstance(tokens, dict) or not tokens or not all(type(number) is int for number in tokens.values()):
        return False
    return sorted(tokens.values()) == list(range(len(tokens)))


def _config(folder: Path, name: str) -> dict[str, Any]:
    return read_json(folder / name) if (folder / name).is_file() else {}


def _named(folder: Path, tokens: Mapping[str, int], pad_token: str | None) -> dict[str, str] | None:
    """Returns the tokens that a configuration names; None where one is not in the vocabulary, or is no token."""
    config = _config(folder, CONFIG)
    stated = any((folder / name).is_file() for name in (CONFIG, SPECIAL))
    assumed = {} if stated or pad_token is None else {"pad_token": pad_token}
    if isinstance(known := config.get("added_tokens_decoder", {}), dict) and known:
        numbers = {number: _content(token) for number, token in known.items()}
        if any(str(tokens.get(token or "")) != number for number, token in numbers.items()):
            return None
    elif "added_tokens_decoder" not in config:
        config = {**config, **_config(folder, SPECIAL)}
    if any(config.get(key) for key in _OTHERS):
        return None
    named = {key: _content(value) for key, value in {**_DEFAULTS, **assumed, **config}.items() if key in _DEFAULTS}
    found = {key: token for key, token in named.items() if token is not None and token in tokens}
    return found if found.keys() == _DEFAULTS.keys() else None


def _content(token: Any) -> str | None:
    """Returns the text of a token as a string or as Transformers writes its options, None for anything else."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _merges(path: Path, tokens: Mapping[str, int]) -> tuple[tuple[str, str], ...] | None:
    """Returns the merges of a file, None where a line is none of tokens of the vocabulary, or is there twice."""
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except ValueError:
        return None
    pairs = [tuple(line.split(" ")) for line in lines if not line.startswith("#version")]
    known = (len(pair) == 2 and {*pair, "".join(pair)} <= tokens.keys() for pair in pairs)
    return tuple((left, right) for left, right in pairs) if len(set(pairs)) == len(pairs) and all(known) else None
