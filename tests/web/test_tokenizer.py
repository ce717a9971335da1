"""The page's tokenizer beside transformers', on nasty texts."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from sdmobile.checkpoints.bpe import write_clip_tokenizer
from sdmobile.checkpoints.tokenizers import tokenizer_from, write_vocabulary, written_out
from sdmobile.formats.bundle.reading import Bundle
from sdmobile.validate.golden_recording import NASTY_TEXTS
from tests.web.screens import Modules

TEXTS = (
    *NASTY_TEXTS,
    "ΟΔΟΣ ΣΑΣ Σ",  # a sigma at a word's end
    "İstanbul ĞIŞ ẞ ß ﬀ",
    "no\u00a0break\u2003em\u3000wide\u0085next\ufefffeff\u200bzero",
    "\x00nul \x07bell \x1besc",
    "Ⅷ ½ ² ٣ १२३ 𝟙𝟚",
    "a'S b'LL c'd 'tis !!'s ''re",
    "<|STARTOFTEXT|> <|endoftext|><|EndOfText|> <|x|>",
    "\u0301alone a\u0323\u0307 \u1e9b\u0323",
    "한글 ᄒ\u1161\u11ab ก็ हिन्दी",
    "_ __ a_b _1_ -- --- … ·",
)
_RUN = """
  const [vocab, merges, facts, config, texts] = given;
  const tokenizer = new m.Tokenizer(vocab, merges, facts, config);
  return texts.map((text) => Array.from(tokenizer.encode(text)));
"""


def _ids(modules: Modules, folder: Path, facts: dict[str, Any], texts: tuple[str, ...]) -> list[list[int]]:
    vocabulary, config = (
        json.loads((folder / name).read_text("utf-8")) for name in ("vocab.json", "tokenizer_config.json")
    )
    merges = (folder / "merges.txt").read_text("utf-8")
    return modules.call("tokenizer.js", _RUN, vocabulary, merges, facts, config, list(texts))


def _expected(tokenizer: Any, texts: tuple[str, ...], length: int) -> list[list[int]]:
    written = [written_out(text, tokenizer) for text in texts]
    return tokenizer(written, padding="max_length", max_length=length, truncation=True)["input_ids"]


def _random_texts(count: int) -> tuple[str, ...]:
    """Letters of many scripts, signs and blanks in any order."""
    draw = random.Random(0)
    letters = "aAbBzZ09 '\"<|>_-.,!?\t\n&éÉßΣσčЖж漢字かなกहि한🙂👩‍👩🏳️\u0301\u200d\u00a0½²"
    return tuple("".join(draw.choices(letters, k=draw.randrange(1, 60))) for _ in range(count))


def test_the_ids_are_those_of_transformers(modules: Modules, bundle: Bundle) -> None:
    facts = json.loads((bundle.path / "metadata.json").read_text("utf-8"))["tokenizer"]
    texts = (*TEXTS, *_random_texts(200))
    found = _ids(modules, bundle.tokenizer_dir, facts, texts)
    for text, ids, right in zip(texts, found, _expected(tokenizer_from(bundle.tokenizer_dir), texts, 77), strict=True):
        assert ids == right, text


@pytest.mark.parametrize("words", [("<cat-toy>",), ("<cat>", "<cat>_1", "<cat>_2", "<Dög>")])
def test_learned_words_stand_for_themselves(modules: Modules, tmp_path: Path, words: tuple[str, ...]) -> None:
    source, folder = tmp_path / "source", tmp_path / "bundle"
    write_clip_tokenizer(source, ["a photo of a cat in a large red circle"])
    known = write_vocabulary(folder, source, added_tokens=words)
    assert known.bos_token is not None
    facts = {
        "length": 16,
        "bos_token_id": known.identifier(known.bos_token),
        "eos_token_id": known.identifier(known.eos_token),
        "pad_token_id": known.identifier(known.pad_token),
        "added_tokens": dict(known.added),
        **({"expansions": known.expansions} if known.expansions else {}),
    }
    texts = ("a <cat-toy> on <CAT-TOY>", "my <cat>, a<cat>b <CAT>_1 <Cat>", "<dög> <DÖG> <Dög>", "<|endoftext|><cat>_2")
    right = _expected(tokenizer_from(source, added_tokens=words), texts, 16)
    assert _ids(modules, folder, facts, texts) == right
