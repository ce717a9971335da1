"""Checkpoints are opened and read where PyTorch, Diffusers and Transformers cannot be imported, as anywhere else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdmobile.checkpoints import Changes, LoraFile, load_model, open_checkpoint
from sdmobile.checkpoints.embeddings import EmbeddingFile
from tests.checkpoints.opened import told
from tests.checkpoints.single import REGULAR, write_single
from tests.synthetic import write_checkpoint

_PROGRAM = """
import json, sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "diffusers", "transformers", "tokenizers", "peft", "accelerate"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from sdmobile.errors import SdmobileError
from tests.checkpoints.opened import loaded, told
try:
    print(json.dumps(told(*sys.argv[1:])))
except SdmobileError as error:
    print(json.dumps({"exit code": error.exit_code, "says": str(error)}))
assert not loaded()
"""


def _told_without(path: Path, changes: Changes) -> Any:
    arguments = [sys.executable, "-c", _PROGRAM, str(path), json.dumps(changes.to_json())]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def _told(path: Path, changes: Changes) -> Any:
    return told(str(path), json.dumps(changes.to_json()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("plain") / "tiny", changes=REGULAR)


@pytest.fixture(scope="module")
def changes(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Changes:
    """A LoRA of every kind, in kohya's names, and a learned word."""
    place, generator = tmp_path_factory.mktemp("changes"), torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).half()

    block = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to"
    conv = "lora_unet_down_blocks_0_resnets_0_conv1"
    lora = {
        f"{block}_q.lora_down.weight": draw(4, 32),
        f"{block}_q.lora_up.weight": draw(32, 4),
        f"{block}_q.alpha": torch.tensor(3),
        **{f"{block}_k.hada_w{n}_{p}": draw(*s) for n in (1, 2) for p, s in (("a", (32, 2)), ("b", (2, 32)))},
        f"{block}_v.lokr_w1": draw(4, 4),
        f"{block}_v.lokr_w2": draw(8, 8),
        f"{conv}.lora_down.weight": draw(3, 32, 1, 1),
        f"{conv}.lora_mid.weight": draw(3, 3, 3, 3),
        f"{conv}.lora_up.weight": draw(32, 3, 1, 1),
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": draw(2, 64),
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": draw(64, 2),
    }
    save_file(lora, place / "lora.safetensors")
    save_file({"<toy>": draw(2, 64)}, place / "toy.safetensors")
    words = (EmbeddingFile(place / "toy.safetensors"),)
    return Changes(loras=(LoraFile(place / "lora.safetensors", 0.7),), embeddings=words)


@pytest.mark.parametrize("form", ["folder", "single file"])
def test_with_all_that_is_put_on_top(form: str, folder: Path, changes: Changes, tmp_path: Path) -> None:
    path = folder
    if form == "single file":
        path = write_single(folder, tmp_path / "merged.safetensors")
        (tmp_path / "tokenizer").symlink_to(folder / "tokenizer")
    found = _told_without(path, changes)
    assert found == _told(path, changes)
    assert len(found["loras"]) == 5
    assert found["words"][0][0] == ["<toy>", "<toy>_1"]
    plain = _told(path, Changes())["weights"]
    changed = [key for name in plain for key, value in plain[name].items() if found["weights"][name][key] != value]
    assert len(changed) == 6


def test_a_single_file_is_what_its_folder_is(folder: Path, tmp_path: Path) -> None:
    whole = write_single(folder, tmp_path / "merged.safetensors")
    assert _told_without(whole, Changes())["weights"] == _told(folder, Changes())["weights"]


def test_open_clips_layout(folder: Path, tmp_path: Path) -> None:
    """Queries, keys and values lie in one tensor, the autoencoder's matrices as convolutions."""
    from tests.checkpoints.single import tensors_of

    tensors = {name: value.contiguous().clone() for name, value in tensors_of(folder, open_clip=True).items()}
    path = tmp_path / "v2.safetensors"
    save_file(tensors, path)
    found = _told_without(path, Changes())
    assert found == _told(path, Changes())
    module = load_model(open_checkpoint(path), "text_encoder").state_dict()
    stored = load_file(folder / "text_encoder/model.safetensors")
    assert all(torch.equal(value, stored[f"text_model.{key}"].float()) for key, value in module.items())


def test_a_pickle_names_what_it_needs(folder: Path, tmp_path: Path) -> None:
    torch.save({"<toy>": torch.ones(2, 64)}, tmp_path / "toy.pt")
    changes = Changes(embeddings=(EmbeddingFile(tmp_path / "toy.pt"),))
    assert _told(folder, changes)["words"]
    found = _told_without(folder, changes)
    assert found["exit code"] == 8
    assert "pip install 'sdmobile[torch]'" in found["says"]
