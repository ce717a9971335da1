"""kohya's LoRAs of Stable Diffusion 3: every layer, against Diffusers' conversion of the original layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from safetensors.torch import save_file
from torch import Tensor

from sdmobile.checkpoints import Changes, LoraFile, open_checkpoint
from sdmobile.checkpoints.load import load_model
from sdmobile.errors import CheckpointError
from sdmobile.families.joint_block_names import Rows
from tests.families.tiny import stable_diffusion_3 as tiny

_H, _BLOCKS, _DUAL = 32, 3, (0, 1)


def _original_shapes() -> dict[str, tuple[int, ...]]:
    """Returns the weights of `tiny.MEDIUM` that a LoRA changes, as the original layout has them."""
    shapes: dict[str, tuple[int, ...]] = {
        "x_embedder.proj": (_H, 16, 2, 2),
        "context_embedder": (_H, 96),
        "t_embedder.mlp.0": (_H, 256),
        "t_embedder.mlp.2": (_H, _H),
        "y_embedder.mlp.0": (_H, 64),
        "y_embedder.mlp.2": (_H, _H),
        "final_layer.linear": (64, _H),
        "final_layer.adaLN_modulation.1": (2 * _H, _H),
    }
    for block in range(_BLOCKS):
        last, dual = block == _BLOCKS - 1, block in _DUAL
        for stream in ("x", "context"):
            base = f"joint_blocks.{block}.{stream}_block"
            ends = last and stream == "context"
            parts = 2 if ends else 9 if dual and stream == "x" else 6
            shapes |= {f"{base}.attn.qkv": (3 * _H, _H), f"{base}.adaLN_modulation.1": (parts * _H, _H)}
            if not ends:
                shapes |= {f"{base}.mlp.fc1": (4 * _H, _H), f"{base}.mlp.fc2": (_H, 4 * _H)}
                shapes[f"{base}.attn.proj"] = (_H, _H)
        if dual:
            base = f"joint_blocks.{block}.x_block.attn2"
            shapes |= {f"{base}.qkv": (3 * _H, _H), f"{base}.proj": (_H, _H)}
    return shapes


def _converted(changes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns changes of the original layout's weights as Diffusers lays them out; all else is zero."""
    stored = {"pos_embed": torch.zeros(1)}
    for name, shape in _original_shapes().items():
        stored[f"{name}.weight"] = changes.get(name, torch.zeros(shape))
        stored[f"{name}.bias"] = torch.zeros(shape[0])
        module, _, layer = name.rpartition(".")
        if layer == "qkv":
            stored |= {f"{module}.ln_{one}.weight": torch.zeros(1) for one in "qk"}
    converted = convert_sd3_transformer_checkpoint_to_diffusers(stored)
    return {name: value for name, value in converted.items() if value.shape != (1,)}  # but what stood for the rest


def _lora(shape: tuple[int, ...], generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
    """Returns a LoRA of rank 4 and alpha 2, and its change of a weight."""
    rank, rest = 4, shape[1:]
    down = 0.2 * torch.randn(rank, *rest, generator=generator)
    up = 0.2 * torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=generator)
    change = 0.5 * (up.reshape(shape[0], rank) @ down.reshape(rank, -1)).reshape(shape)
    return {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(2.0)}, change


@pytest.fixture(scope="module")
def medium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("sd3") / "medium", tiny.MEDIUM)


def _check(medium: Path, file: Path, wanted: Mapping[str, Tensor]) -> int:
    """Compares all weights at scale 0.5; returns how many changed."""
    before = load_model(open_checkpoint(medium), "transformer").state_dict()
    changed = open_checkpoint(medium, changes=Changes((LoraFile(file, 0.5),)))
    for name, value in load_model(changed, "transformer").state_dict().items():
        more = 0.5 * wanted[name] if name in wanted else 0.0
        torch.testing.assert_close(value, before[name] + more, rtol=1e-5, atol=1e-6)
    return len(changed.loras[0].layers)


def test_every_layer_is_changed_as_the_original_layout_is(medium: Path, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    stored: dict[str, Tensor] = {}
    changes: dict[str, Tensor] = {}
    for name, shape in _original_shapes().items():
        parts, changes[name] = _lora(shape, generator)
        stored |= {f"lora_unet_{name.replace('.', '_')}.{part}": value for part, value in parts.items()}
    save_file(stored, tmp_path / "kohya.safetensors")
    joined = sum(name.endswith("qkv") for name in changes)
    assert _check(medium, tmp_path / "kohya.safetensors", _converted(changes)) == len(changes) + 2 * joined


def test_another_kind_is_split_as_well(medium: Path, tmp_path: Path) -> None:
    """A LoHa's change is no product of rows alone."""
    generator = torch.Generator().manual_seed(1)
    name = "joint_blocks.1.context_block.attn.qkv"
    sizes = {"hada_w1_a": (96, 3), "hada_w1_b": (3, 32), "hada_w2_a": (96, 3), "hada_w2_b": (3, 32)}
    parts = {part: torch.randn(size, generator=generator) for part, size in sizes.items()}
    base = f"lora_unet_{name.replace('.', '_')}"
    save_file(
        {**{f"{base}.{part}": value for part, value in parts.items()}, f"{base}.alpha": torch.tensor(3.0)},
        tmp_path / "loha.safetensors",
    )
    change = (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"])
    assert _check(medium, tmp_path / "loha.safetensors", _converted({name: change})) == 3


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("joint_blocks_0_x_block_attn_qkv", (64, 32), "must fit"),
        ("joint_blocks_2_context_block_attn_proj", (32, 32), "every key"),
        ("joint_blocks_2_x_block_attn2_qkv", (96, 32), "every key"),
        ("joint_blocks_3_x_block_attn_qkv", (96, 32), "every key"),
        (f"joint_blocks_{'9' * 5000}_x_block_attn_qkv", (96, 32), "every key"),
        ("joint_blocks_٠_x_block_attn_qkv", (96, 32), "every key"),
        ("joint_blocks_00_x_block_attn_qkv", (96, 32), "every key"),
        ("joint_blocks_0_y_block_attn_qkv", (96, 32), "every key"),
        ("joint_blocks_0_x_block_attn_kv", (64, 32), "every key"),
    ],
)
def test_what_the_model_has_not_is_refused_by_its_key(
    name: str, shape: tuple[int, int], says: str, medium: Path, tmp_path: Path
) -> None:
    parts, _ = _lora(shape, torch.Generator().manual_seed(2))
    save_file({f"lora_unet_{name}.{part}": value for part, value in parts.items()}, tmp_path / "bad.safetensors")
    with pytest.raises(CheckpointError, match=says) as failure:
        open_checkpoint(medium, changes=Changes((LoraFile(tmp_path / "bad.safetensors"),)))
    assert name in str(failure.value)


@pytest.mark.parametrize("own", ["transformer", "unet"])
def test_two_changes_of_one_weight_are_refused_whichever_comes_first(own: str, medium: Path, tmp_path: Path) -> None:
    """Else a third of the joined one would be lost without a word; headers are in the order of the alphabet."""
    generator = torch.Generator().manual_seed(3)
    single, joined = f"lora_{own}_transformer_blocks_0_attn_to_q", "lora_unet_joint_blocks_0_x_block_attn_qkv"
    assert (single < joined) == (own == "transformer")
    stored = {
        f"{base}.{part}": value
        for base, shape in ((single, (32, 32)), (joined, (96, 32)))
        for part, value in _lora(shape, generator)[0].items()
    }
    save_file(stored, tmp_path / "twice.safetensors")
    with pytest.raises(CheckpointError, match="every key"):
        open_checkpoint(medium, changes=Changes((LoraFile(tmp_path / "twice.safetensors"),)))


def test_a_change_of_t5_is_refused_by_its_key(medium: Path, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(4)
    names = {"unet_joint_blocks_0_x_block_attn_qkv": (96, 32), "te3_encoder_block_0_layer_0_SelfAttention_q": (32, 32)}
    stored = {
        f"lora_{name}.{part}": value
        for name, shape in names.items()
        for part, value in _lora(shape, generator)[0].items()
    }
    save_file(stored, tmp_path / "t5.safetensors")
    with pytest.raises(CheckpointError, match=r"lora_te3_.* and 2 more"):
        open_checkpoint(medium, changes=Changes((LoraFile(tmp_path / "t5.safetensors"),)))


def test_rows_of_odd_weights_are_told() -> None:
    assert Rows((0,), 3).whole(()) == ()
    assert not Rows((0,), 3).divides(())
    assert Rows((1, 0), 2).divides((6, 4))
    assert not Rows((1, 0), 2).divides((5, 4))
    assert Rows().divides(())
