"""Byte-pair vocabularies in the file format of CLIP's tokenizer: `vocab.json` and `merges.txt`."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

BOS = "<|startoftext|>"
EOS = "<|endoftext|>"
WORD_END = "</w>"
CONTEXT_LENGTH = 77

# Runs of letters, single digits, runs of anything else: what CLIP's own pre-tokenizer does.
_WORDS = re.compile(r"[^\W\d_]+|\d|(?:[^\w\s]|_)+")

Pair = tuple[str, str]


def byte_symbols() -> list[str]:
    """Returns the printable character that stands for each byte, in CLIP's order of identifiers.

    Printable Latin-1 bytes stand for themselves and come first; the other 68 are shifted to U+0100 and on.

    Returns:
        256 distinct one-character strings.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = range(256, 256 + 256 - len(printable))
    return [chr(code) for code in (*printable, *shifted)]


def byte_to_symbol() -> dict[int, str]:
    """Returns the symbol of each byte value 0..255."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return dict(zip([*printable, *others], byte_symbols(), strict=True))


def learn_merges(corpus: Iterable[str], limit: int | None = None) -> list[Pair]:
    """Returns the merges that byte-pair encoding learns from a corpus, most frequent pair first.

    Ties are broken alphabetically, so the result does not depend on the order of the corpus.

    Args:
        corpus: texts; they are lower-cased first.
        limit: how many merges at most; without it, until every word of the corpus is one token.

    Source: Sennrich et al. 2016 (arXiv 1508.07909), algorithm 1, with CLIP's `</w>` on each word's last symbol.
    """
    words = _split_words(corpus)
    merges: list[Pair] = []
    while limit is None or len(merges) < limit:
        pairs: Counter[Pair] = Counter()
        for symbols, count in words.items():
            for pair in pairwise(symbols):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = Counter({_merge(symbols, best): count for symbols, count in words.items()})
    return merges


def write_clip_tokenizer(folder: Path, corpus: Iterable[str], vocab_size: int | None = None) -> int:
    """Writes the files of a CLIPTokenizer whose merges are learned from a corpus.

    Identifiers: 256 byte symbols, the same with `</w>`, one per merge, fillers that no text produces,
    then begin and end of text as the last two.

    Args:
        folder: where `vocab.json`, `merges.txt` and the two configuration files go; it is created.
        corpus: texts to learn from, such as captions.
        vocab_size: number of identifiers; without it, as many as make every word of the corpus one token.

    Returns:
        The number of identifiers.

    Raises:
        ValueError: vocab_size is below the 514 that byte symbols and the two special tokens need.
    """
    basic = byte_symbols()
    tokens = [*basic, *(symbol + WORD_END for symbol in basic)]
    minimum = len(tokens) + 2
    if vocab_size is not None and vocab_size < minimum:
        raise ValueError(f"a CLIP vocabulary needs at least {minimum} identifiers, not {vocab_size}")
    merges = learn_merges(corpus, None if vocab_size is None else vocab_size - minimum)
    # Two merges can make the same string by different ways; the identifier belongs to the string.
    tokens = list(dict.fromkeys([*tokens, *(left + right for left, right in merges)]))
    if vocab_size is not None:
        tokens += [f"<|filler{index}|>" for index in range(vocab_size - 2 - len(tokens))]
    tokens += [BOS, EOS]
    _write_files(folder, tokens, merges)
    return len(tokens)


def _split_words(corpus: Iterable[str]) -> Counter[tuple[str, ...]]:
    symbol = byte_to_symbol()
    counts: Counter[str] = Counter()
    for text in corpus:
        counts.update(_WORDS.findall(text.lower()))
    words: Counter[tuple[str, ...]] = Counter()
    for word, count in counts.items():
        symbols = [symbol[byte] for byte in word.encode("utf-8")]
        symbols[-1] += WORD_END
        words[tuple(symbols)] += count
    return words


def _merge(symbols: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    merged: list[str] = []
    index = 0
    while index < len(symbols):
        if symbols[index : index + 2] == pair:
            merged.append(pair[0] + pair[1])
            index += 2
        else:
            merged.append(symbols[index])
            index += 1
    return tuple(merged)


def _write_files(folder: Path, tokens: list[str], merges: list[Pair]) -> None:
    special = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": EOS}
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": CONTEXT_LENGTH,
        "do_lower_case": True,
        "add_prefix_space": False,
        **special,
    }
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n", encoding="utf-8")
