"""Gemma's tokenizer behind SANA's instruction: as Diffusers' pipeline has it, in bundles, and damaged files."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import SanaPipeline, SanaSprintPipeline
from transformers import Gemma2Config, Gemma2Model

from sdmobile.checkpoints.tokenizers import (
    check_vocabulary,
    given_tokenizer,
    is_tokenizer,
    read_vocabulary,
    text_length,
    token_ids,
    tokenizer_from,
    write_vocabulary,
)
from sdmobile.errors import CheckpointError, SdmobileError, UnsupportedError, UsageError
from sdmobile.families import gemma2
from sdmobile.families.gemma2_encoder import Gemma2TextEncoder
from sdmobile.families.sana_text import INSTRUCTION, ROWS, TOKENIZER, mask_of
from sdmobile.families.tokenizer_kinds import CLIP, GEMMA, T5
from sdmobile.validate.app_files.tokenizer import TEXTS
from tests.synthetic import GEMMA as SIZES
from tests.synthetic import write_gemma_tokenizer, write_unigram_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gemma") / "tokenizer"
    write_gemma_tokenizer(folder)
    return folder


@pytest.mark.parametrize("pipeline", [SanaPipeline, SanaSprintPipeline])
def test_the_instruction_is_that_of_diffusers(pipeline: Any) -> None:
    stated = inspect.signature(pipeline.__call__).parameters["complex_human_instruction"].default
    assert "\n".join(stated) == INSTRUCTION
    assert inspect.signature(pipeline.__call__).parameters["max_sequence_length"].default == ROWS


@pytest.mark.parametrize("text", ["a small red circle", "", "\n A Small RED circle, naïve: ½ ", "red " * 400])
def test_rows_and_mask_are_those_of_diffusers(text: str, folder: Path) -> None:
    tokenizer = tokenizer_from(folder, kind=TOKENIZER)
    torch.manual_seed(0)
    encoder: Any = Gemma2Model(Gemma2Config(**{**SIZES, "vocab_size": len(tokenizer)})).eval()
    pipeline: Any = SanaSprintPipeline(tokenizer, encoder, *(None,) * 3)  # type: ignore[arg-type]
    with torch.no_grad():
        rows, mask = pipeline.encode_prompt(
            text, device=torch.device("cpu"), complex_human_instruction=INSTRUCTION.split("\n")
        )
        ids = token_ids(tokenizer, text, text_length(folder, TOKENIZER, ROWS), TOKENIZER)
        ours = Gemma2TextEncoder(encoder, ROWS, gemma2.PAD)(torch.tensor([ids]))
    kept = mask[0] == 1
    np.testing.assert_array_equal(mask_of(np.array([ids])), mask.numpy())
    assert ours.shape == rows.shape
    torch.testing.assert_close(ours[:, kept], rows[:, kept], atol=1e-4, rtol=0)


def test_a_folder_may_fill_up_elsewhere_and_be_without_a_tokenizer(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "left")
    (other / "tokenizer_config.json").write_text('{"padding_side": "left"}', "utf-8")
    assert token_ids(tokenizer_from(other, kind=GEMMA), "red", 9, GEMMA)[-4:] == [0] * 4
    assert text_length(None, TOKENIZER, ROWS) == text_length(folder, GEMMA, ROWS) == ROWS


def test_a_tokenizer_that_knows_nothing_is_said_to(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "empty")
    document = json.loads((copy / "tokenizer.json").read_text("utf-8"))
    known = {token: number for token, number in document["model"]["vocab"].items() if number < 4}
    model = {**document["model"], "vocab": known, "merges": [], "byte_fallback": False}
    (copy / "tokenizer.json").write_text(json.dumps({**document, "model": model, "post_processor": None}), "utf-8")
    with pytest.raises(CheckpointError, match="must split its family's instruction"):
        text_length(copy, TOKENIZER, ROWS)


def test_a_bundle_gets_the_same_tokenizer(folder: Path, tmp_path: Path) -> None:
    vocabulary = write_vocabulary(tmp_path / "bundle", folder, kind=TOKENIZER)
    assert {file.name for file in (tmp_path / "bundle").iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    assert vocabulary == read_vocabulary(tmp_path / "bundle", kind=GEMMA) == read_vocabulary(folder, kind=GEMMA)
    assert (vocabulary.bos_token, vocabulary.identifier(vocabulary.pad_token)) == ("<bos>", 0)
    ours, theirs = tokenizer_from(tmp_path / "bundle", kind=TOKENIZER), tokenizer_from(folder, kind=TOKENIZER)
    length = text_length(folder, TOKENIZER, ROWS)
    for text in TEXTS:
        assert token_ids(ours, text, length, TOKENIZER) == token_ids(theirs, text, length, TOKENIZER)
    check_vocabulary(vocabulary, len(theirs), folder)
    with pytest.raises(CheckpointError, match="every token must have a row"):
        check_vocabulary(vocabulary, len(theirs) - 1, folder)


def test_an_app_is_told_what_is_done_to_a_text() -> None:
    prepared = "lower case, then without white space at both ends; then `instruction` is put before it"
    assert TOKENIZER.preparation == prepared
    assert TOKENIZER.prepared(" A Cat\n") == INSTRUCTION + "a cat"
    assert (GEMMA.preparation, GEMMA.prepared(" A Cat\n")) == (None, " A Cat\n")


def test_kinds_are_told_apart(folder: Path, tmp_path: Path) -> None:
    assert is_tokenizer(folder, GEMMA)
    assert given_tokenizer(folder.parent, GEMMA) == folder
    with pytest.raises(UsageError, match=r"a folder with tokenizer\.json"):
        given_tokenizer(tmp_path, GEMMA)
    with pytest.raises(CheckpointError, match=r"lacks \['tokenizer\.json'\]"):
        tokenizer_from(tmp_path, kind=GEMMA)
    with pytest.raises(SdmobileError):
        tokenizer_from(folder, kind=T5)
    write_unigram_tokenizer(tmp_path)
    tokenizer_from(tmp_path, kind=T5).save_pretrained(str(tmp_path / "t5"))
    with pytest.raises(SdmobileError):
        tokenizer_from(tmp_path / "t5", kind=GEMMA)
    assert not is_tokenizer(tmp_path, CLIP)


def _of_document(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Returns what changes the stored document of a folder."""

    def apply(folder: Path) -> None:
        document = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        change(document)
        (folder / "tokenizer.json").write_text(json.dumps(document), "utf-8")

    return apply


_BROKEN: dict[str, Callable[[Path], object]] = {
    "no json": lambda folder: (folder / "tokenizer.json").write_text("{", "utf-8"),
    "no model": _of_document(lambda document: document.pop("model")),
    "an identifier beyond": _of_document(lambda document: document["model"]["vocab"].update(far=10**12)),
    "an added token beyond": _of_document(lambda document: document["added_tokens"][0].update(id=10**12)),
    "merges of what is not there": _of_document(lambda document: document["model"]["merges"].append(["q#", "#q"])),
    "merges of one": _of_document(lambda document: document["model"]["merges"].append(["a"])),
    "other padding": lambda folder: (folder / "tokenizer_config.json").write_text('{"pad_token": "<eos>"}', "utf-8"),
    "a length below 1": lambda folder: (folder / "tokenizer_config.json").write_text(
        '{"model_max_length": 0}', "utf-8"
    ),
}


@pytest.mark.parametrize("broken", _BROKEN.values(), ids=_BROKEN)
def test_damaged_documents_are_said_to_be(broken: Callable[[Path], object], folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "broken")
    broken(copy)
    with pytest.raises(SdmobileError) as raised:
        tokenizer_from(copy, kind=GEMMA)
    assert raised.value.exit_code in (CheckpointError.exit_code, UnsupportedError.exit_code)
    assert str(copy) in raised.value.message()
