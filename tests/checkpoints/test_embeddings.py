"""Learned words: ids, rows and pictures as Diffusers' `load_textual_inversion`, in bundles too; refused where odd."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sdmobile.checkpoints import Changes, load_model, load_tokenizer, open_checkpoint
from sdmobile.checkpoints.embeddings import EmbeddingFile
from sdmobile.checkpoints.tokenizers import read_vocabulary, tokenizer_from, write_vocabulary, written_out
from sdmobile.errors import CheckpointError, UsageError
from sdmobile.families.clip import TOKEN_ROWS
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.sampling import Sampler, SampleRequest, sample
from sdmobile.reference.torch_runner import TorchRunner
from tests.checkpoints.pictures import diffusers_picture, pipeline_of, psnr

WIDTH = 32
TEXT = "a <cat-toy> beside a mytoy, red"


def _vectors(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> tuple[EmbeddingFile, EmbeddingFile]:
    """One word of three vectors by Diffusers, one of two by AUTOMATIC1111."""
    folder = tmp_path_factory.mktemp("words")
    save_file({"<cat-toy>": _vectors(3)}, folder / "learned_embeds.safetensors")
    stored = {"string_to_token": {"*": 265}, "string_to_param": {"*": _vectors(2, 1)}, "name": "mytoy", "step": 500}
    torch.save(stored, folder / "other.pt")
    return EmbeddingFile(folder / "learned_embeds.safetensors"), EmbeddingFile(folder / "other.pt")


def test_ids_rows_and_picture_are_those_of_diffusers(
    tiny_checkpoint: Path, words: tuple[EmbeddingFile, EmbeddingFile]
) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint, changes=Changes(embeddings=words))
    pipeline = pipeline_of(tiny_checkpoint)
    for word in words:
        pipeline.load_textual_inversion(str(word.path))
    spec = PipelineSpec.from_checkpoint(checkpoint)
    runner = TorchRunner(checkpoint, spec.geometry)
    sampler = Sampler(runner, spec)
    for text in (TEXT, "nothing learned", "mytoy,<cat-toy>.mytoy", "mytoyota"):
        converted = pipeline.maybe_convert_prompt(text, pipeline.tokenizer)
        ids = pipeline.tokenizer(converted, padding="max_length", truncation=True, max_length=77)["input_ids"]
        assert sampler.tokenize(text).tolist() == [ids]
    rows: Any = pipeline.text_encoder.get_input_embeddings().weight
    ours = load_model(checkpoint, "text_encoder").state_dict()[TOKEN_ROWS]
    assert torch.equal(ours, rows.detach())
    assert [one.tokens for one in checkpoint.embeddings] == [
        ("<cat-toy>", "<cat-toy>_1", "<cat-toy>_2"),
        ("mytoy", "mytoy_1"),
    ]

    request = SampleRequest(TEXT, "mytoy", 3, 5, 4.0, "ddim")
    image = sample(runner, spec, request).image
    assert psnr(image, diffusers_picture(pipeline, request)) > 100
    plain = sample(TorchRunner(open_checkpoint(tiny_checkpoint)), spec_of(tiny_checkpoint), request).image
    assert psnr(image, plain) < 60


def spec_of(folder: Path) -> PipelineSpec:
    return PipelineSpec.from_checkpoint(open_checkpoint(folder))


def test_a_bundles_tokenizer_gives_the_same_ids(
    tiny_checkpoint: Path, words: tuple[EmbeddingFile, EmbeddingFile], tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint, changes=Changes(embeddings=words))
    assert checkpoint.tokenizer_dir is not None
    written = write_vocabulary(tmp_path / "tokenizer", checkpoint.tokenizer_dir, None, checkpoint.added_tokens)
    here, there = load_tokenizer(checkpoint), tokenizer_from(tmp_path / "tokenizer")
    for text in (TEXT, TEXT.upper(), "<cat-toy>_2x mytoyota MyToy_1"):
        assert here(written_out(text, here))["input_ids"] == there(written_out(text, there))["input_ids"]
        assert here(written_out(text, here))["input_ids"] == here(written_out(text.lower(), here))["input_ids"]
    assert written_out(TEXT, there) == "a <cat-toy> <cat-toy>_1 <cat-toy>_2 beside a mytoy mytoy_1, red"
    vocabulary = json.loads((tmp_path / "tokenizer" / "vocab.json").read_text("utf-8"))
    assert [vocabulary[token] for token in checkpoint.added_tokens] == here.convert_tokens_to_ids(
        list(checkpoint.added_tokens)
    )
    assert written.expansions == {
        "<cat-toy>": ["<cat-toy>", "<cat-toy>_1", "<cat-toy>_2"],
        "mytoy": ["mytoy", "mytoy_1"],
    }
    assert written.all == read_vocabulary(tmp_path / "tokenizer").all


@pytest.mark.parametrize("stored", ["emb_params", "one vector", "parameters", "a .bin"])
def test_formats_and_tokens(stored: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    vectors, file = _vectors(2), tmp_path / "my_word.safetensors"
    if stored == "emb_params":
        save_file({"emb_params": vectors.half()}, file)
    elif stored == "one vector":
        save_file({"my_word": vectors[0].contiguous()}, file)
    elif stored == "parameters":  # as the original code keeps them
        parameters = torch.nn.ParameterDict({"*": torch.nn.Parameter(vectors)})
        torch.save({"string_to_token": {"*": torch.tensor(5)}, "string_to_param": parameters}, file.with_suffix(".pt"))
        file = file.with_suffix(".pt")
    else:
        torch.save({"my_word": vectors}, file.with_suffix(".bin"))
        file = file.with_suffix(".bin")
    for token, wanted in ((None, "my_word"), ("<New>", "<new>")):
        opened = open_checkpoint(tiny_checkpoint, changes=Changes(embeddings=(EmbeddingFile(file, token),)))
        (embedding,) = opened.embeddings
        assert embedding.tokens[0] == wanted
        assert len(embedding.tokens) == (1 if stored == "one vector" else 2)
        assert not opened.misfits
        rows = load_model(opened, "text_encoder").state_dict()[TOKEN_ROWS]
        expected = vectors[:1] if stored == "one vector" else vectors
        torch.testing.assert_close(rows[-len(expected) :], expected, atol=1e-3, rtol=1e-3)
        assert opened.components["text_encoder"].config["vocab_size"] == len(rows)


def test_bytes_token_and_order_make_another_checkpoint(
    tiny_checkpoint: Path, words: tuple[EmbeddingFile, EmbeddingFile]
) -> None:
    one, two = words
    renamed = EmbeddingFile(one.path, "<other>")
    choices = ((), (one,), (renamed,), (two,), (one, two), (two, one))
    hashes = [open_checkpoint(tiny_checkpoint, changes=Changes(embeddings=files)).content_hash for files in choices]
    assert len(set(hashes)) == len(hashes)
    assert Changes.from_json(json.loads(json.dumps(Changes(embeddings=words).to_json()))) == Changes(embeddings=words)


class _Harm:
    def __reduce__(self) -> Any:
        return (print, ("ran",))


def _write(path: Path, value: Any) -> EmbeddingFile:
    torch.save(value, path) if path.suffix == ".pt" else save_file(value, path)
    return EmbeddingFile(path)


_ODD: dict[str, tuple[Any, str]] = {
    "width.safetensors": ({"<a>": torch.ones(2, 31)}, "width of the text encoder, 32"),
    "two.safetensors": ({"clip_l": torch.ones(2, WIDTH), "clip_g": torch.ones(2, WIDTH)}, "one tensor"),
    "cube.safetensors": ({"<a>": torch.ones(2, 2, WIDTH)}, r"one tensor.*\[2, 2, 32\]"),
    "integers.safetensors": ({"<a>": torch.ones(2, WIDTH, dtype=torch.int8)}, "int8"),
    "nan.safetensors": ({"<a>": torch.full((2, WIDTH), float("nan"))}, "finite"),
    "many.safetensors": ({"<a>": torch.ones(1025, WIDTH)}, "at most 1024 vectors"),
    "spaces.safetensors": ({"my word": torch.ones(2, WIDTH)}, "--embedding FILE:TOKEN"),
    "known.safetensors": ({"red</w>": torch.ones(2, WIDTH)}, "not be in the vocabulary"),
    "empty.pt": ({"string_to_param": {}, "name": "x"}, "0 tensors"),
    "list.pt": ([torch.ones(2, WIDTH)], "0 tensors"),
    "deep.pt": ({"string_to_param": {"*": {"*": torch.ones(2, WIDTH)}}}, "0 tensors"),
    "harm.pt": ({"string_to_param": {"*": torch.ones(2, WIDTH)}, "name": _Harm()}, ""),
}


@pytest.mark.parametrize("name", _ODD)
def test_what_does_not_fit_is_refused(
    name: str, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value, rule = _ODD[name]
    changes = Changes(embeddings=(_write(tmp_path / name, value),))
    if rule:
        with pytest.raises(CheckpointError, match=rule):
            open_checkpoint(tiny_checkpoint, changes=changes)
    else:  # nothing of a pickle is run: the name is no text, so the tensor's own counts
        assert open_checkpoint(tiny_checkpoint, changes=changes).embeddings[0].tokens[0] == "harm"
        assert "ran" not in capsys.readouterr().out


def test_damaged_files_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for name, content in (
        ("a.safetensors", b""),
        ("b.safetensors", b"\xff" * 64),
        ("c.pt", b"not a pickle"),
        ("d.pt", pickle.dumps({"<a>": 1})),
        ("e.txt", b"<a>"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError):
            open_checkpoint(tiny_checkpoint, changes=Changes(embeddings=(EmbeddingFile(tmp_path / name),)))
    with pytest.raises(CheckpointError):
        open_checkpoint(tiny_checkpoint, changes=Changes(embeddings=(EmbeddingFile(tmp_path / "none.pt"),)))


def test_file_and_token_are_read(tmp_path: Path) -> None:
    assert EmbeddingFile.parse("a/b.pt") == EmbeddingFile(Path("a/b.pt"))
    assert EmbeddingFile.parse("a/b.pt:<cat>") == EmbeddingFile(Path("a/b.pt"), "<cat>")
    assert EmbeddingFile.parse("C:/b.safetensors:x") == EmbeddingFile(Path("C:/b.safetensors"), "x")
    assert EmbeddingFile.parse("C:/b.safetensors") == EmbeddingFile(Path("C:/b.safetensors"))
    odd = tmp_path / "name.pt:2"
    odd.write_bytes(b"")
    assert EmbeddingFile.parse(str(odd)) == EmbeddingFile(odd)
    assert str(EmbeddingFile(Path("a/b.pt"), "<cat>")) == "b.pt:<cat>"
    with pytest.raises(UsageError, match="empty"):
        EmbeddingFile.parse("a.pt:")
    with pytest.raises(UsageError, match="at most 64"):
        Changes(embeddings=(EmbeddingFile(odd),) * 65)
