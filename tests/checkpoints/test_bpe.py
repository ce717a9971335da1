"""The tokenizer files must mean the same to Transformers' CLIPTokenizer and to a plain reading of the BPE rules."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmobile.checkpoints.bpe import byte_symbols, byte_to_symbol, learn_merges, write_clip_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

CORPUS = [
    "a red circle above a blue square",
    "two small yellow stars on a green background",
    "a circle to the left of a triangle",
]


class PlainBpe:
    """Lower-case, split at spaces, merge the pair of lowest rank until none is left: what Apple's Swift code does."""

    def __init__(self, folder: Path) -> None:
        self.vocab: dict[str, int] = json.loads((folder / "vocab.json").read_text("utf-8"))
        lines = (folder / "merges.txt").read_text("utf-8").splitlines()[1:]
        self.ranks = {tuple(line.split(" ")): rank for rank, line in enumerate(lines)}

    def word(self, word: str) -> list[str]:
        parts = [*word[:-1], word[-1] + "</w>"]
        while True:
            pairs = [pair for pair in pairwise(parts) if pair in self.ranks]
            if not pairs:
                return parts
            best = min(pairs, key=lambda pair: self.ranks[pair])
            index = 0
            while index < len(parts) - 1:
                if (parts[index], parts[index + 1]) == best:
                    parts[index : index + 2] = ["".join(best)]
                index += 1

    def __call__(self, text: str) -> list[int]:
        return [self.vocab[part] for word in text.lower().split() for part in self.word(word)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> tuple[PlainBpe, Any]:
    from transformers import CLIPTokenizer

    folder = tmp_path_factory.mktemp("bpe")
    write_clip_tokenizer(folder, CORPUS)
    return PlainBpe(folder), CLIPTokenizer.from_pretrained(str(folder))


@settings(max_examples=150, deadline=None)
@given(words=st.lists(st.text("abcdefghijklmnopqrstuvwxyzREDCIL", min_size=1, max_size=12), max_size=8))
def test_agrees_with_an_independent_reading(tokenizer: tuple[PlainBpe, Any], words: list[str]) -> None:
    plain, clip = tokenizer
    text = " ".join(words)
    assert clip(text, add_special_tokens=False).input_ids == plain(text)


def test_words_of_the_corpus_are_single_tokens(tokenizer: tuple[PlainBpe, Any]) -> None:
    _, clip = tokenizer
    for text in CORPUS:
        assert clip.tokenize(text) == [word + "</w>" for word in text.split()]


def test_prompt_is_framed_and_padded_like_clip(tokenizer: tuple[PlainBpe, Any]) -> None:
    plain, clip = tokenizer
    ids = clip("a red circle", padding="max_length", truncation=True, max_length=77).input_ids
    size = len(plain.vocab)
    assert ids == [size - 2, *plain("a red circle"), *[size - 1] * 73]


def test_any_text_has_tokens(tokenizer: tuple[PlainBpe, Any]) -> None:
    _, clip = tokenizer
    ids = clip("naïve 東京 🙂 12.5%!", add_special_tokens=False).input_ids
    assert ids
    assert clip.unk_token_id not in ids


def test_vocabulary_is_padded_to_a_size(tmp_path: Path) -> None:
    assert write_clip_tokenizer(tmp_path, CORPUS, vocab_size=49408) == 49408
    vocab = json.loads((tmp_path / "vocab.json").read_text("utf-8"))
    assert sorted(vocab.values()) == list(range(49408))
    assert vocab["<|startoftext|>"] == 49406
    assert vocab["<|endoftext|>"] == 49407
    assert vocab["a</w>"] == 320  # as in CLIP's own vocabulary


def test_vocabulary_below_the_minimum_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 514"):
        write_clip_tokenizer(tmp_path, CORPUS, vocab_size=513)


def test_limit_keeps_the_most_frequent_merges() -> None:
    assert learn_merges(["ab ab ab cd"], limit=1) == [("a", "b</w>")]
    assert learn_merges(["cd ab"]) == learn_merges(["ab", "cd"])


def test_bytes_and_symbols_correspond_one_to_one() -> None:
    symbols = byte_to_symbol()
    assert sorted(symbols) == list(range(256))
    assert len(set(symbols.values())) == 256
    assert set(symbols.values()) == set(byte_symbols())
    assert symbols[ord("a")] == "a"
    assert symbols[0] == "Ā"
    assert symbols[0x20] == "Ġ"
