"""Weights read by NumPy against PyTorch's own reading of the same bytes, bit by bit."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sdmobile.checkpoints import Changes, Checkpoint, open_checkpoint
from sdmobile.checkpoints.arrays import array_reader, check_values, model_arrays, plain_sources, read_array
from sdmobile.checkpoints.embeddings import EmbeddingFile
from sdmobile.checkpoints.headers import read_header
from sdmobile.checkpoints.weights import normalise, read_headers
from sdmobile.errors import CheckpointError
from sdmobile.families.clip import TOKEN_ROWS

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"
HALVES = ("float16", "bfloat16")
BYTES = ("float8_e4m3fn", "float8_e5m2")


def same_bits(ours: np.ndarray, theirs: torch.Tensor) -> bool:
    """Whether two float32 arrays have the same bits, any NaN for any other."""
    wanted = theirs.numpy()
    numbers = ~np.isnan(wanted)
    assert ours.dtype == np.float32
    return ours.shape == wanted.shape and bool(
        (np.isnan(ours) == ~numbers).all() and (ours[numbers].view(np.uint32) == wanted[numbers].view(np.uint32)).all()
    )


@pytest.mark.parametrize("dtype", [*HALVES, *BYTES])
def test_every_bit_pattern_of_a_short_type(tmp_path: Path, dtype: str) -> None:
    bits = torch.arange(256, dtype=torch.uint8) if dtype in BYTES else torch.arange(65536).to(torch.uint16)
    tensor = bits.view(getattr(torch, dtype)).reshape(2, -1)
    save_file({"before": torch.zeros(3), "w": tensor}, tmp_path / "m.safetensors")
    assert same_bits(read_array(read_header(tmp_path / "m.safetensors")[0]["w"]), tensor.float())


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape", [(), (0, 3), (3, 5, 2)])
def test_numbers_of_every_size(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    scales = torch.logspace(-46, 38, max(1, int(np.prod(shape))), dtype=torch.float64)[: int(np.prod(shape))]
    tensor = (torch.randn(shape, dtype=torch.float64) * scales.reshape(shape)).to(getattr(torch, dtype))
    save_file({"a": torch.ones(7, dtype=torch.uint8), "w": tensor}, tmp_path / "m.safetensors")
    assert same_bits(read_array(read_header(tmp_path / "m.safetensors")[0]["w"]), tensor.float())


@pytest.mark.parametrize("rows", [False, True], ids=["one scale", "a scale per row"])
@pytest.mark.parametrize("dtype", BYTES)
def test_scales_are_multiplied_as_torch_does(tmp_path: Path, dtype: str, rows: bool) -> None:
    weight = torch.randn(6, 4, 3, 3).to(getattr(torch, dtype))
    scale = torch.rand(6) if rows else torch.tensor(0.37)
    save_file({"a.weight": weight, "a.scale_weight": scale}, tmp_path / "m.safetensors")
    info = read_headers((tmp_path / "m.safetensors",)).tensors["a.weight"]
    assert same_bits(read_array(info), weight.float() * (scale.reshape(-1, 1, 1, 1) if rows else scale))


def test_rows_of_a_tensor_and_one_that_is_stored_transposed(tmp_path: Path) -> None:
    weight, scale = torch.randn(6, 4, 3).to(torch.float8_e5m2), torch.rand(6)
    save_file({"a.weight": weight, "a.scale_weight": scale, "b": torch.randn(5, 3)}, tmp_path / "m.safetensors")
    tensors = read_headers((tmp_path / "m.safetensors",)).tensors
    whole = weight.float() * scale.reshape(-1, 1, 1)
    assert same_bits(read_array(tensors["a.weight"].rows(2, 5)), whole[2:5])
    assert same_bits(read_array(tensors["a.weight"].rows(4, 9)), whole[4:9])
    assert tensors["a.weight"].rows(7, 9).elements == 0
    matrix = load_file(tmp_path / "m.safetensors")["b"]
    turned = replace(tensors["b"], shape=(3, 5), transposed=True)
    assert same_bits(read_array(turned), matrix.T)
    assert read_array(turned).flags.c_contiguous
    assert same_bits(read_array(replace(tensors["b"], shape=(9, 3), added=4)), matrix)


def test_a_file_that_became_another_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    checkpoint = open_checkpoint(folder)
    tensors = load_file(folder / UNET_FILE)
    save_file({**tensors, "conv_in.bias": tensors["conv_in.bias"].double()}, folder / UNET_FILE)
    with pytest.raises(CheckpointError, match="must not change while it is read"):
        plain_sources(checkpoint, "unet")


def test_integers_and_files_that_changed_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"i": torch.ones(4, dtype=torch.int8), "w": torch.ones(64)}, path)
    infos = read_header(path)[0]
    with pytest.raises(CheckpointError, match="floating-point numbers: i is int8"):
        read_array(infos["i"])
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="must not change while it is read"):
        read_array(infos["w"])
    path.unlink()
    with pytest.raises(CheckpointError, match="must be readable"):
        read_array(infos["w"])


@pytest.mark.parametrize("dtype", ["float32", *HALVES])
def test_a_model_is_what_the_files_hold(tiny_checkpoint: Path, tmp_path: Path, dtype: str) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    for file in folder.rglob("*.safetensors"):
        save_file({key: value.to(getattr(torch, dtype)) for key, value in load_file(file).items()}, file)
    checkpoint = open_checkpoint(folder)
    for name, info in checkpoint.components.items():
        stored = {normalise(key): value for file in info.weight_files for key, value in load_file(file).items()}
        found = dict(model_arrays(checkpoint, name))
        assert set(found) == set(info.tensors)
        assert all(same_bits(value, stored[key].float().reshape(value.shape)) for key, value in found.items())
        some = sorted(found)[::5]
        assert sorted(key for key, _ in model_arrays(checkpoint, name, some)) == some


def test_weights_are_read_from_many_threads(checkpoint: Checkpoint) -> None:
    sources = plain_sources(checkpoint, "unet")
    assert sources is not None
    read, wanted = array_reader(checkpoint, "unet", sources), dict(model_arrays(checkpoint, "unet"))
    wrong: list[str] = []

    def compare(keys: list[str]) -> None:
        wrong.extend(key for key in keys if not np.array_equal(read(key), wanted[key]))

    threads = [threading.Thread(target=compare, args=(sorted(wanted)[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_learned_words_have_their_rows(tiny_checkpoint: Path, tmp_path: Path) -> None:
    vectors = torch.randn(3, 32).half()
    save_file({"<word>": vectors}, tmp_path / "word.safetensors")
    plain = dict(model_arrays(open_checkpoint(tiny_checkpoint), "text_encoder"))[TOKEN_ROWS]
    changes = Changes(embeddings=(EmbeddingFile(tmp_path / "word.safetensors"),))
    checkpoint = open_checkpoint(tiny_checkpoint, changes=changes)
    (word,) = checkpoint.embeddings
    longer = dict(model_arrays(checkpoint, "text_encoder"))[TOKEN_ROWS]
    assert longer.shape == checkpoint.components["text_encoder"].tensors[TOKEN_ROWS].shape
    assert same_bits(longer[word.first_row : word.first_row + 3], vectors.float())
    assert np.array_equal(longer[: word.first_row], plain[: word.first_row])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_counted_and_named(tiny_checkpoint: Path, tmp_path: Path, value: float) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    tensors = load_file(folder / UNET_FILE)
    tensors["conv_in.bias"][2:4] = value
    save_file(tensors, folder / UNET_FILE)
    with pytest.raises(CheckpointError, match=r"unet: 2 of \d+ values of conv_in\.bias are NaN or infinite"):
        check_values(open_checkpoint(folder), "unet")


def test_a_sum_that_overflows_is_no_fault(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    tensors = load_file(folder / UNET_FILE)
    tensors["conv_in.bias"] = torch.full(tensors["conv_in.bias"].shape, 3e38)
    save_file(tensors, folder / UNET_FILE)
    check_values(open_checkpoint(folder), "unet")
