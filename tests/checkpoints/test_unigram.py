"""T5's tokenizer: read in both of its forms, written for bundles, and damaged files as what they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdmobile.checkpoints import open_checkpoint
from sdmobile.checkpoints.changes import Changes, changed
from sdmobile.checkpoints.embeddings import EmbeddingFile
from sdmobile.checkpoints.hub_files import small_files
from sdmobile.checkpoints.lora import LoraFile
from sdmobile.checkpoints.tokenizers import (
    check_vocabulary,
    given_tokenizer,
    is_tokenizer,
    read_vocabulary,
    token_ids,
    tokenizer_from,
    write_vocabulary,
)
from sdmobile.errors import CheckpointError, SdmobileError, UnsupportedError, UsageError
from sdmobile.families.tokenizer_kinds import CLIP, T5
from sdmobile.validate.app_files.tokenizer import TEXTS
from tests.families.tiny import pixart_sigma
from tests.synthetic import CORPUS, write_unigram_tokenizer

LENGTH = 24


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `spiece.model` alone."""
    folder = tmp_path_factory.mktemp("unigram") / "tokenizer"
    write_unigram_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def whole(pieces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what Transformers saves of it: `tokenizer.json`."""
    folder = tmp_path_factory.mktemp("whole")
    tokenizer_from(pieces, kind=T5).save_pretrained(str(folder))
    assert not (folder / "spiece.model").exists()
    return folder


def test_identifiers_are_those_of_sentencepiece(pieces: Path, whole: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    theirs = SentencePieceProcessor(model_proto=(pieces / "spiece.model").read_bytes())
    for folder in (pieces, whole):
        tokenizer = tokenizer_from(folder, kind=T5)
        for text in (*CORPUS[:4], "", "a zebra, naïve: ½"):
            ids = [*theirs.encode(text), 1]
            assert token_ids(tokenizer, text, LENGTH, T5) == ids + [0] * (LENGTH - len(ids))


def test_a_long_text_ends_in_its_end(pieces: Path) -> None:
    ids = token_ids(tokenizer_from(pieces, kind=T5), "a red circle " * 40, LENGTH, T5)
    assert (len(ids), ids[-1], 0 in ids) == (LENGTH, 1, False)


def test_a_family_may_prepare_texts(pieces: Path) -> None:
    kind = pixart_sigma.family_named("pixart-sigma").tokenizer_kind
    tokenizer = tokenizer_from(pieces, kind=kind)
    plain = token_ids(tokenizer, "a small red circle", LENGTH, kind)
    assert token_ids(tokenizer, "\n A Small RED circle  ", LENGTH, kind) == plain
    assert token_ids(tokenizer, "\n A Small RED circle  ", LENGTH, T5) != plain
    assert kind.preparation == "lower case, then without white space at both ends"


def test_a_bundle_gets_both_files(pieces: Path, whole: Path, tmp_path: Path) -> None:
    for source, files in ((pieces, 3), (whole, 2)):
        folder = tmp_path / source.name
        vocabulary = write_vocabulary(folder, source, kind=T5)
        assert len(list(folder.iterdir())) == files
        assert vocabulary == read_vocabulary(folder, kind=T5) == read_vocabulary(source, kind=T5)
        assert (vocabulary.bos_token, vocabulary.eos_token, vocabulary.identifier(vocabulary.pad_token)) == (
            None,
            "</s>",
            0,
        )
        ours, theirs = tokenizer_from(folder, kind=T5), tokenizer_from(source, kind=T5)
        assert [token_ids(ours, text, LENGTH, T5) for text in TEXTS] == [
            token_ids(theirs, text, LENGTH, T5) for text in TEXTS
        ]
        assert json.loads((folder / "tokenizer.json").read_text("utf-8"))["truncation"] is None


def test_every_token_needs_a_row(pieces: Path) -> None:
    vocabulary = read_vocabulary(pieces, kind=T5)
    check_vocabulary(vocabulary, len(vocabulary.tokens), pieces)
    with pytest.raises(CheckpointError, match="every token must have a row"):
        check_vocabulary(vocabulary, len(vocabulary.tokens) - 1, pieces)


def test_kinds_are_told_apart(pieces: Path, tmp_path: Path) -> None:
    assert is_tokenizer(pieces, T5)
    assert not is_tokenizer(pieces, CLIP)
    assert given_tokenizer(pieces.parent, T5) == pieces
    with pytest.raises(UsageError, match=r"spiece\.model, or with tokenizer\.json"):
        given_tokenizer(tmp_path, T5)
    with pytest.raises(CheckpointError, match=r"spiece\.model"):
        tokenizer_from(tmp_path, kind=T5)
    assert small_files(["tokenizer/spiece.model", "tokenizer/other.model"]) == ["tokenizer/spiece.model"]


def _of_model(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Returns what changes the stored document of a folder."""

    def apply(folder: Path) -> None:
        document = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        change(document)
        (folder / "tokenizer.json").write_text(json.dumps(document), "utf-8")

    return apply


_BROKEN: dict[str, Callable[[Path], object]] = {
    "no json": lambda folder: (folder / "tokenizer.json").write_text("{", "utf-8"),
    "no pieces": _of_model(lambda document: document["model"].update(vocab=[])),
    "a score that is none": _of_model(lambda document: document["model"]["vocab"][5].__setitem__(1, "high")),
    "unknown beyond": _of_model(lambda document: document["model"].update(unk_id=10**6)),
    "an identifier beyond": _of_model(lambda document: document["added_tokens"][0].update(id=10**12)),
    "another model": _of_model(
        lambda document: document.update(model={"type": "WordLevel", "vocab": {"<pad>": 0, "</s>": 1}, "unk_token": ""})
    ),
    "other padding": lambda folder: (folder / "tokenizer_config.json").write_text('{"pad_token": "</s>"}', "utf-8"),
    "a normaliser of rubbish": _of_model(
        lambda document: document.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"})
    ),
}


@pytest.mark.parametrize("broken", _BROKEN.values(), ids=_BROKEN)
def test_damaged_documents_are_said_to_be(broken: Callable[[Path], object], whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "broken")
    broken(folder)
    with pytest.raises(SdmobileError) as raised:
        tokenizer_from(folder, kind=T5)
    assert raised.value.exit_code in (CheckpointError.exit_code, UnsupportedError.exit_code)
    assert str(folder) in raised.value.message()


@pytest.mark.parametrize("kept", [0, 1, 60, 3000])
def test_pieces_that_are_cut_off_are_said_to_be(kept: int, pieces: Path, tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes((pieces / "spiece.model").read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"model of SentencePiece|empty"):
        tokenizer_from(tmp_path, kind=T5)


@pytest.mark.parametrize("content", [b"-----BEGIN KEY-----\n", bytes(range(256)) * 40])
def test_another_file_in_the_pieces_place_is_not_copied(content: bytes, whole: Path, tmp_path: Path) -> None:
    """Beside a `tokenizer.json` nothing reads it; it may be a link to anything."""
    source = tmp_path / "tokenizer"
    shutil.copytree(whole, source)
    (tmp_path / "secret").write_bytes(content)
    (source / "spiece.model").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="model of SentencePiece"):
        write_vocabulary(tmp_path / "bundle", source, kind=T5)
    assert not (tmp_path / "bundle" / "spiece.model").exists()


def test_what_is_for_clip_is_refused_by_name(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(pixart_sigma.write(tmp_path / "tiny"))
    for changes, option in (
        (Changes(embeddings=(EmbeddingFile(tmp_path / "word.pt"),)), "--embedding word.pt"),
        (Changes(loras=(LoraFile(tmp_path / "style.safetensors", 0.5),)), "--lora style.safetensors:0.5"),
        (Changes(clip_skip=1), "--clip-skip 1"),
    ):
        with pytest.raises(UnsupportedError, match=option) as raised:
            changed(checkpoint, changes)
        assert "PixArt-Σ has SentencePiece unigram, of T5" in raised.value.message()
