"""Tokenizers in every form in which they are stored, and what bundles get of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdmobile.checkpoints import open_checkpoint
from sdmobile.checkpoints.tokenizers import (
    check_vocabulary,
    load_tokenizer,
    read_vocabulary,
    tokenizer_from,
    write_vocabulary,
)
from sdmobile.errors import CheckpointError, UsageError
from tests.checkpoints.single import write_single

TEXTS = ["a small red circle on white", "A <toy>, twice: <toy>!", ""]
END = "<|endoftext|>"


@pytest.fixture
def plain(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """vocab.json and merges.txt, nothing else."""
    folder = tmp_path / "plain"
    folder.mkdir()
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(tiny_checkpoint / "tokenizer" / name, folder / name)
    return folder


@pytest.fixture
def copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")


def ids(tokenizer: Any) -> list[list[int]]:
    return tokenizer(TEXTS, padding="max_length", max_length=24, truncation=True)["input_ids"]


def save(folder: Path, target: Path, change: Callable[[Any], object] = lambda tokenizer: None, **options: Any) -> Path:
    """Saves a tokenizer as Transformers does, changed."""
    from transformers import CLIPTokenizer

    tokenizer: Any = CLIPTokenizer.from_pretrained(str(folder), **options)
    change(tokenizer)
    tokenizer.save_pretrained(str(target))
    return target


def add_toy(tokenizer: Any) -> None:
    tokenizer.add_tokens("<toy>")


def test_one_file_as_transformers_saves_it_is_enough(plain: Path, tmp_path: Path) -> None:
    saved = save(plain, tmp_path / "saved")
    assert not (saved / "vocab.json").exists()
    whole, parts = read_vocabulary(saved), read_vocabulary(plain)
    assert whole == parts
    assert ids(tokenizer_from(saved)) == ids(tokenizer_from(plain))


def test_a_bundle_gets_the_plain_files_that_apps_read(plain: Path, tmp_path: Path) -> None:
    vocabulary = write_vocabulary(tmp_path / "bundle", save(plain, tmp_path / "saved"))
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / "bundle" / name).read_text() == (plain / name).read_text()
    assert read_vocabulary(tmp_path / "bundle") == vocabulary
    assert not (tmp_path / "bundle" / "tokenizer.json").exists()
    assert "/" not in (tmp_path / "bundle" / "tokenizer_config.json").read_text().replace("</", "")


@pytest.mark.parametrize("form", ["whole", "special_tokens_map", "tokenizer_config", "assumed"])
def test_a_text_is_filled_up_with_the_tokenizers_own_token(plain: Path, tmp_path: Path, form: str) -> None:
    """Stable Diffusion 2.x fills up with `!`, identifier 0; what says so may be in any file, or nowhere."""
    source, assumed = plain, None
    if form == "whole":
        source = save(plain, tmp_path / "saved", pad_token="!")
    elif form == "assumed":
        assumed = "!"
    else:
        names = dict.fromkeys(("eos_token", "unk_token"), END) | {"bos_token": "<|startoftext|>", "pad_token": "!"}
        (plain / f"{form}.json").write_text(json.dumps(names))
    expected = ids(tokenizer_from(source, assumed))
    assert expected[2][-1] == 0
    vocabulary = write_vocabulary(tmp_path / "bundle", source, assumed)
    assert (vocabulary.pad_token, vocabulary.identifier("!"), dict(vocabulary.added)) == ("!", 0, {})
    assert ids(tokenizer_from(tmp_path / "bundle")) == expected


def test_openclip_is_known_by_its_activation(copy: Path) -> None:
    assert open_checkpoint(copy).pad_token is None
    config = copy / "text_encoder/config.json"
    config.write_text(config.read_text().replace("quick_gelu", "gelu"))
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (copy / "tokenizer" / name).unlink()
    checkpoint = open_checkpoint(copy)
    assert load_tokenizer(checkpoint).pad_token_id == 0
    (copy / "tokenizer/special_tokens_map.json").write_text(json.dumps({"pad_token": END}))
    assert load_tokenizer(open_checkpoint(copy)).pad_token == END


def test_an_added_token_stays_one_token(plain: Path, tmp_path: Path) -> None:
    saved = save(plain, tmp_path / "saved", add_toy)
    vocabulary = write_vocabulary(tmp_path / "bundle", saved)
    number = len(vocabulary.tokens)
    assert vocabulary.added == {"<toy>": number}
    assert json.loads((tmp_path / "bundle/vocab.json").read_text())["<toy>"] == number
    expected = ids(tokenizer_from(saved))
    assert expected[1].count(number) == 2
    assert ids(tokenizer_from(tmp_path / "bundle")) == expected


def test_a_token_without_a_row_is_refused(plain: Path, tmp_path: Path) -> None:
    vocabulary = read_vocabulary(save(plain, tmp_path / "saved", add_toy))
    rows = len(vocabulary.tokens)
    check_vocabulary(vocabulary, rows + 1, plain)
    with pytest.raises(CheckpointError, match=rf"1 of {rows + 1} have none in {rows} rows, among them '<toy>'"):
        check_vocabulary(vocabulary, rows, plain)


def _vocabulary(folder: Path) -> dict[str, int]:
    return json.loads((folder / "vocab.json").read_text())


DAMAGE: dict[str, Callable[[Path], object]] = {
    "vocab list": lambda folder: (folder / "vocab.json").write_text("[1, 2]"),
    "vocab types": lambda folder: (folder / "vocab.json").write_text('{"a": "b"}'),
    "vocab empty": lambda folder: (folder / "vocab.json").write_text("{}"),
    "negative": lambda folder: (folder / "vocab.json").write_text('{"a": -1}'),
    "huge": lambda folder: (folder / "vocab.json").write_text('{"a": 1e400}'),
    "far": lambda folder: (folder / "vocab.json").write_text(json.dumps({**_vocabulary(folder), "a": 2**31})),
    "not utf-8": lambda folder: (folder / "vocab.json").write_bytes(b'{"\xff": 1}'),
    "deep": lambda folder: (folder / "vocab.json").write_text("[" * 100_000),
    "merges": lambda folder: (folder / "merges.txt").write_text("#version\nq w e r t\n"),
    "merges unknown": lambda folder: (folder / "merges.txt").write_text("#version\nzzzz yyyy\n"),
    "whole": lambda folder: (folder / "tokenizer.json").write_text("{}"),
    "whole model": lambda folder: (folder / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": 3}}'),
    "config": lambda folder: (folder / "tokenizer_config.json").write_text('{"pad_token": {"a": [1]}}'),
    "length": lambda folder: (folder / "tokenizer_config.json").write_text('{"model_max_length": "many"}'),
    "missing": lambda folder: (folder / "merges.txt").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_refused_with_their_folder(plain: Path, damage: str) -> None:
    DAMAGE[damage](plain)
    with pytest.raises(CheckpointError, match=plain.name):
        check_vocabulary(read_vocabulary(plain), 100_000, plain)


def test_a_pipe_is_no_tokenizer(plain: Path) -> None:
    import os

    (plain / "vocab.json").unlink()
    os.mkfifo(plain / "vocab.json")
    with pytest.raises(CheckpointError, match=r"lacks \['vocab.json'\]"):
        tokenizer_from(plain)


def test_a_single_file_takes_the_tokenizer_that_is_given_and_keeps_it(
    tiny_checkpoint: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDMOBILE_CACHE", str(tmp_path / "cache"))
    single = write_single(tiny_checkpoint, tmp_path / "single" / "m.safetensors")
    checkpoint = open_checkpoint(single)
    with pytest.raises(
        CheckpointError, match=r"openai/clip-vit-large-patch14, for 2\.x the folder .*stable-diffusion-2-1"
    ):
        load_tokenizer(checkpoint)
    given = open_checkpoint(single, plain)
    assert given.tokenizer_dir == plain
    shutil.rmtree(plain)
    again = open_checkpoint(single)
    assert load_tokenizer(again).vocab_size == load_tokenizer(open_checkpoint(tiny_checkpoint)).vocab_size
    assert any("given with this file before" in note for note in again.notes)
    with pytest.raises(UsageError, match="--tokenizer must be a folder"):
        open_checkpoint(single, tmp_path / "nothing")


@pytest.mark.parametrize("standard", [True, False])
def test_the_standard_vocabulary_is_found_in_the_hubs_cache(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, standard: bool
) -> None:
    from sdmobile.checkpoints import tokenizer_search

    monkeypatch.setenv("SDMOBILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub/models--openai--clip-vit-large-patch14/snapshots/32bd64"
    shutil.copytree(tiny_checkpoint / "tokenizer", folder)
    size = len(json.loads((folder / "vocab.json").read_text()))
    if standard:
        monkeypatch.setattr(tokenizer_search, "STANDARD_VOCABULARY", size)
        monkeypatch.setattr(tokenizer_search, "STANDARD_TOKENS", {END: size - 1})
    checkpoint = open_checkpoint(write_single(tiny_checkpoint, tmp_path / "single" / "m.safetensors"))
    assert checkpoint.tokenizer_dir == (folder if standard else None)
    assert any("openai/clip-vit-large-patch14" in note for note in checkpoint.notes) is standard


def test_a_folder_of_the_hubs_cache_is_named_after_its_repository(tiny_checkpoint: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--someone--toy-diffusion-v1.5" / "snapshots" / ("0" * 40)
    shutil.copytree(tiny_checkpoint, snapshot)
    assert open_checkpoint(snapshot).name == "toy-diffusion-v1.5"
