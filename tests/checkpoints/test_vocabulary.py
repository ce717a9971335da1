"""Plain tokenizer files read by themselves: what Transformers' own tokenizer says of them, or nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdmobile.checkpoints import tokenizers
from sdmobile.checkpoints.tokenizers import read_vocabulary, tokenizer_from
from sdmobile.checkpoints.vocabulary import Vocabulary, plain_vocabulary

START, END = "<|startoftext|>", "<|endoftext|>"


def _write(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(json.dumps(value), encoding="utf-8")


def _number(folder: Path, token: str) -> int:
    return json.loads((folder / "vocab.json").read_text("utf-8"))[token]


def _known(folder: Path, pad: str = END) -> dict[str, Any]:
    tokens = {token: {"content": token, "special": True} for token in (START, END, pad)}
    return {str(_number(folder, token)): options for token, options in tokens.items()}


Change = Callable[[Path], object]
OPTIONS = {"content": "!", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
PLAIN: dict[str, Change] = {
    "two files": lambda folder: None,
    "a map": lambda folder: _write(folder, "special_tokens_map.json", {"pad_token": "!", "eos_token": END}),
    "a map with options": lambda folder: _write(folder, "special_tokens_map.json", {"pad_token": OPTIONS}),
    "a configuration": lambda folder: _write(folder, "tokenizer_config.json", {"pad_token": "!", "bos_token": START}),
    "a length": lambda folder: _write(folder, "tokenizer_config.json", {"model_max_length": 64}),
    "the map goes first": lambda folder: (
        _write(folder, "tokenizer_config.json", {"pad_token": "a", "model_max_length": 77}),
        _write(folder, "special_tokens_map.json", {"pad_token": "!"}),
    ),
    "known tokens go before the map": lambda folder: (
        _write(folder, "tokenizer_config.json", {"pad_token": "!", "added_tokens_decoder": _known(folder, "!")}),
        _write(folder, "special_tokens_map.json", {"pad_token": "a"}),
    ),
}
OTHER: dict[str, Change] = {
    "more tokens": lambda folder: _write(folder, "added_tokens.json", {"<toy>": 600}),
    "a token of its own": lambda folder: _write(folder, "tokenizer_config.json", {"pad_token": "<pad>"}),
    "another kind": lambda folder: _write(folder, "special_tokens_map.json", {"mask_token": "!"}),
    "a known token elsewhere": lambda folder: _write(
        folder, "tokenizer_config.json", {"added_tokens_decoder": {"600": {"content": "<toy>"}}}
    ),
    "no merge": lambda folder: (folder / "merges.txt").write_text("#version\nq w e\n"),
    "no token": lambda folder: _write(folder, "tokenizer_config.json", {"pad_token": {"a": [1]}}),
    "a hole": lambda folder: _write(folder, "vocab.json", {START: 0, END: 2}),
    "no length": lambda folder: _write(folder, "tokenizer_config.json", {"model_max_length": "many"}),
}


@pytest.fixture
def plain(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "plain"
    folder.mkdir()
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(tiny_checkpoint / "tokenizer" / name, folder / name)
    return folder


def _by_library(folder: Path, pad: str | None, words: tuple[str, ...]) -> Vocabulary:
    return tokenizers._vocabulary(tokenizer_from(folder, pad, words))


@pytest.mark.parametrize("words", [(), ("<toy>", "<toy>_1", "red</w>")], ids=["none", "words"])
@pytest.mark.parametrize("form", PLAIN)
def test_plain_files_are_what_transformers_reads(plain: Path, form: str, words: tuple[str, ...]) -> None:
    PLAIN[form](plain)
    for pad in (None, "!"):
        found = plain_vocabulary(plain, pad, words)
        assert found == _by_library(plain, pad, words)
        assert found is not None
        assert len(found.all) == len(tokenizer_from(plain, pad, words))


@pytest.mark.parametrize("form", OTHER)
def test_other_forms_are_left_to_transformers(plain: Path, form: str) -> None:
    OTHER[form](plain)
    assert plain_vocabulary(plain, None, ()) is None


def test_a_file_of_its_own_is_left_to_transformers(plain: Path, tmp_path: Path) -> None:
    before = read_vocabulary(plain)
    tokenizer_from(plain).save_pretrained(str(tmp_path / "saved"))
    assert plain_vocabulary(tmp_path / "saved", None, ()) is None
    assert read_vocabulary(tmp_path / "saved") == before
