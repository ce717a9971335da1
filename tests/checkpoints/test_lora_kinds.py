"""LoCon with a middle, LoHa and LoKr in LyCORIS' names: fused as PEFT merges them, or as their layers compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sdmobile.checkpoints import Changes, LoraFile, load_model, open_checkpoint
from sdmobile.errors import CheckpointError

Tensors = dict[str, torch.Tensor]
UNET, TEXT = "lora_unet_", "lora_te_text_model_"
MODULES = ["to_q", "conv1", "proj_in", "conv_shortcut"]
SCALE = 0.7


def _draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape) * 31 + len(shape))) * 0.3


def _fused(folder: Path, tensors: Tensors, file: Path, scale: float = SCALE) -> dict[str, Tensors]:
    save_file({name: value.contiguous() for name, value in tensors.items()}, file)
    opened = open_checkpoint(folder, changes=Changes((LoraFile(file, scale),)))
    assert not opened.unreadable
    return {name: load_model(opened, name).state_dict() for name in ("unet", "text_encoder")}


def _config(kind: str) -> Any:
    from peft import LoHaConfig, LoKrConfig

    if kind.startswith("LoHa"):
        effective = kind.endswith("middles")
        return LoHaConfig(r=3, alpha=5, target_modules=MODULES, use_effective_conv2d=effective, init_weights=False)
    options = {"decompose_both": True, "decompose_factor": 8 if "eighths" in kind else -1}
    effective = kind.endswith("middles")
    rank = 1 if "one" in kind else 2
    return LoKrConfig(
        r=rank, alpha=3, target_modules=MODULES, use_effective_conv2d=effective, init_weights=False, **options
    )


@pytest.mark.parametrize("kind", ["LoHa", "LoHa with middles", "LoKr", "LoKr of eighths", "LoKr, one, with middles"])
def test_weights_are_those_that_peft_merges(kind: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    from peft import get_peft_model, get_peft_model_state_dict

    plain = open_checkpoint(tiny_checkpoint)
    unet: Any = load_model(plain, "unet")
    torch.manual_seed(4)
    adapted: Any = get_peft_model(unet, _config(kind))
    tensors: Tensors = {}
    for name, value in get_peft_model_state_dict(adapted).items():
        module, _, part = name.removeprefix("base_model.model.").rpartition(".")
        base = UNET + module.replace(".", "_")
        tensors[f"{base}.{part}"] = value.detach().clone()
    kinds = {name.partition(".")[2] for name in tensors}
    assert ("hada_t1" in kinds or "lokr_t2" in kinds) == kind.endswith("middles"), kinds
    for base in {name.partition(".")[0] for name in tensors}:
        tensors[f"{base}.alpha"] = torch.tensor(float(adapted.peft_config["default"].alpha))
        if f"{base}.lokr_w1" in tensors and f"{base}.lokr_w2" in tensors:  # PEFT divides by a rank that it has not
            tensors[f"{base}.lokr_w1"] *= adapted.peft_config["default"].alpha / adapted.peft_config["default"].r
    before = load_model(plain, "unet").state_dict()
    found = _fused(tiny_checkpoint, tensors, tmp_path / "lora.safetensors", 1.0)["unet"]
    merged = adapted.merge_and_unload().state_dict()
    changed = 0
    for name, value in found.items():
        torch.testing.assert_close(value, merged[name], rtol=1e-5, atol=1e-5)
        changed += not torch.equal(value, before[name])
    assert changed == len({name.partition(".")[0] for name in tensors}) > 4


def test_a_middle_is_a_convolution_between_two(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """x → down 1×1 → middle 3×3 → up 1×1 beside the layer's own convolution, as LyCORIS computes it."""
    module, rank = "down_blocks.0.resnets.0.conv1", 3
    plain = load_model(open_checkpoint(tiny_checkpoint), "unet")
    weight: Any = plain.get_submodule(module).weight
    out, into = weight.shape[:2]
    down, middle, up = _draw(rank, into, 1, 1), _draw(rank, rank, 3, 3), _draw(out, rank, 1, 1)
    base = UNET + module.replace(".", "_")
    tensors = {f"{base}.lora_{name}.weight": value for name, value in (("down", down), ("mid", middle), ("up", up))}
    found = _fused(tiny_checkpoint, {**tensors, f"{base}.alpha": torch.tensor(2.0)}, tmp_path / "lora.safetensors")
    x = torch.randn(1, into, 6, 6)
    conv = torch.nn.functional.conv2d
    beside = conv(conv(conv(x, down), middle, padding=1), up) * SCALE * 2 / rank
    after = found["unet"][f"{module}.weight"]
    torch.testing.assert_close(conv(x, after - weight, padding=1), beside, rtol=1e-3, atol=1e-5)


def test_the_text_encoder_and_whole_factors(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A LoKr of two whole factors has no rank: its alpha, which LyCORIS sets to it, counts for nothing."""
    before = load_model(open_checkpoint(tiny_checkpoint), "text_encoder").state_dict()
    name = "encoder.layers.0.mlp.fc1"
    out, into = before[f"{name}.weight"].shape
    first, second = _draw(out // 8, into // 4), _draw(8, 4)
    base = TEXT + name.replace(".", "_")
    tensors = {f"{base}.lokr_w1": first, f"{base}.lokr_w2": second, f"{base}.alpha": torch.tensor(64.0)}
    found = _fused(tiny_checkpoint, tensors, tmp_path / "lora.safetensors")["text_encoder"]
    expected = before[f"{name}.weight"] + SCALE * torch.kron(first, second)
    torch.testing.assert_close(found[f"{name}.weight"], expected)
    loha = {f"{base}.hada_w{n}_{p}": _draw(*s) for n in (1, 2) for p, s in (("a", (out, 2)), ("b", (2, into)))}
    found = _fused(tiny_checkpoint, loha, tmp_path / "lora.safetensors")["text_encoder"]
    factors = [loha[f"{base}.hada_w{n}_a"] @ loha[f"{base}.hada_w{n}_b"] for n in (1, 2)]
    expected = before[f"{name}.weight"] + SCALE * factors[0] * factors[1]  # no alpha: r
    torch.testing.assert_close(found[f"{name}.weight"], expected)


_BASE = UNET + "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
_LOHA = {"hada_w1_a": (32, 2), "hada_w1_b": (2, 32), "hada_w2_a": (32, 2), "hada_w2_b": (2, 32)}
_ODD: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "a factor is missing": ({**{k: v for k, v in _LOHA.items() if k != "hada_w2_b"}}, "hada_w1_a"),
    "another width": ({**_LOHA, "hada_w1_b": (2, 31), "hada_w2_b": (2, 31)}, "must fit"),
    "factors of two shapes": ({**_LOHA, "hada_w2_a": (1, 2)}, "must fit"),
    "turned round": (
        {"hada_w1_a": (64, 2), "hada_w1_b": (2, 16), "hada_w2_a": (64, 2), "hada_w2_b": (2, 16)},
        "must fit",
    ),
    "a middle for one factor": ({**_LOHA, "hada_t1": (2, 2, 1, 1)}, "hada_"),
    "another size of a product": ({"lokr_w1": (4, 4), "lokr_w2": (8, 9)}, "must fit"),
    "no rank": ({**_LOHA, "hada_w1_a": (32, 0), "hada_w1_b": (0, 32)}, "must fit"),
    "numbers alone": ({"lokr_w1": (), "lokr_w2": (32, 32)}, "must fit"),
    "two kinds at once": ({**_LOHA, "lokr_w1": (32, 32)}, "must belong"),
    "DoRA": ({"lora_down.weight": (2, 32), "lora_up.weight": (32, 2), "dora_scale": (1, 32)}, "is of DoRA"),
    "OFT": ({"oft_blocks": (4, 8, 8)}, "is of OFT"),
    "a trained norm": ({**_LOHA, "w_norm": (32,)}, "w_norm"),
    "a whole difference": ({"diff": (32, 32)}, "diff"),
}


@pytest.mark.parametrize("what", _ODD)
def test_what_does_not_fit_is_refused_by_its_key(what: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    shapes, rule = _ODD[what]
    file = tmp_path / "lora.safetensors"
    save_file({f"{_BASE}.{part}": torch.ones(shape) for part, shape in shapes.items()}, file)
    with pytest.raises(CheckpointError, match=rule):
        open_checkpoint(tiny_checkpoint, changes=Changes((LoraFile(file),)))
