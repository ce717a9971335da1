"""Qwen3 as a text encoder: the features that FLUX.2 and Z-Image take, as Transformers has them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from sdmobile.checkpoints.folder import read_component
from sdmobile.checkpoints.modules import empty_module
from sdmobile.errors import UnsupportedError
from sdmobile.families import qwen3
from sdmobile.families.qwen3_encoder import Qwen3TextEncoder
from tests.families.language_files import DEVICES, check_android_file, check_axes_and_types

LENGTH, TOKENS, PAD = 48, 21, 88
SIZES: dict[str, Any] = {
    "vocab_size": 90,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
}
CHOSEN = [(1, 2, 3), (3,), (-2,), (-4, -3)]


def whole() -> Any:
    """Returns a model whose norms matter, with a head for the next word, as FLUX.2's folder has it."""
    torch.manual_seed(0)
    module: Any = Qwen3ForCausalLM(Qwen3Config(**SIZES)).eval()
    for name, parameter in module.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 2.0)
        elif "q_proj" in name or "k_proj" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return module


def as_ours(module: Any, layers: tuple[int, ...]) -> Any:
    """Returns the module that the family builds of the same weights, without what comes behind the last layer."""
    ours = empty_module(qwen3.model(layers), SIZES)
    stored = module.model.state_dict()
    ours.load_state_dict({key: stored[key] for key in ours.state_dict()}, strict=True, assign=True)
    return ours.eval()


def texts() -> torch.Tensor:
    ids = torch.randint(0, PAD, (1, LENGTH), generator=torch.Generator().manual_seed(1))
    ids[:, TOKENS:] = PAD
    return ids


@pytest.mark.parametrize("layers", CHOSEN)
@pytest.mark.parametrize("kind", [torch.int32, torch.int64, torch.float32])
def test_features_are_those_of_transformers(layers: tuple[int, ...], kind: torch.dtype) -> None:
    module, ids = whole(), texts()
    mask = (torch.arange(LENGTH) < TOKENS).long()[None]
    with torch.no_grad():
        states = module(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states
        theirs = torch.cat([states[layer] for layer in layers], dim=2)
        reference: Any = qwen3.text_encoder(layers, PAD).reference(as_ours(module, layers), {"input_ids": ids})
        ours = qwen3.text_encoder(layers, PAD).wrap(as_ours(module, layers), False)(ids.to(kind))
        unmasked = qwen3.text_encoder(layers, PAD + 1).wrap(as_ours(module, layers), False)(ids)
    assert torch.equal(reference, theirs)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert (unmasked - theirs)[:, TOKENS:].abs().max() > 0.01  # the mask matters, to what fills up the text


def test_features_of_flux_2_are_those_of_its_pipeline() -> None:
    from diffusers import Flux2KleinPipeline

    class Words:
        """A tokenizer that gives the same identifiers whatever the text."""

        def apply_chat_template(self, messages: Any, **options: Any) -> str:
            return messages[0]["content"]

        def __call__(self, text: str, **options: Any) -> dict[str, torch.Tensor]:
            return {"input_ids": texts(), "attention_mask": (texts() != PAD).long()}

    module, layers = whole(), CHOSEN[0]
    with torch.no_grad():
        theirs = Flux2KleinPipeline._get_qwen3_prompt_embeds(
            module, Words(), "a cat", device=torch.device("cpu"), hidden_states_layers=layers
        )
        ours = Qwen3TextEncoder(as_ours(module, layers), layers, PAD)(texts())
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("inner", ["", "model."], ids=["alone", "with a head"])
def test_a_folder_is_read_without_what_is_not_needed(inner: str, tmp_path: Path) -> None:
    module, model = whole(), qwen3.model((1, 3))
    stored = {f"{inner}{key}": value.contiguous() for key, value in module.model.state_dict().items()}
    head = {"lm_head.weight": module.lm_head.weight.detach().clone()} if inner else {}
    save_file({**stored, **head}, tmp_path / "model.safetensors")
    module.config.to_json_file(tmp_path / "config.json")
    info, notes = read_component(tmp_path, model, "Qwen3ForCausalLM")
    wanted = {key: tuple(value.shape) for key, value in empty_module(model, info.config).state_dict().items()}
    assert {key: tensor.shape for key, tensor in info.tensors.items()} == wanted
    assert len([key for key in wanted if key.endswith("q_norm.weight")]) == 3
    assert any("are not used" in note for note in notes)


def test_sizes_are_read_off_the_weights() -> None:
    shapes = {key: tuple(value.shape) for key, value in whole().model.state_dict().items()}
    derived = qwen3.model((3,)).derive(shapes)
    assert derived == {
        key: value for key, value in SIZES.items() if key not in ("num_hidden_layers", "rope_parameters")
    }


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_act": "gelu"},
        {"use_sliding_window": True},
        {"rope_scaling": {"factor": 2.0}},
        {"num_hidden_layers": 2},
        {"num_hidden_layers": 10**6},
        {"attn_implementation": "kernels-community/flash"},
    ],
)
def test_other_layers_are_refused(change: dict[str, Any]) -> None:
    model = qwen3.model((1, 3))
    model.check("Qwen3Model", SIZES)
    with pytest.raises(UnsupportedError, match=str(next(iter(change.values())))[:5]):
        model.check("Qwen3Model", {**SIZES, **change})


def encoder() -> Qwen3TextEncoder:
    return Qwen3TextEncoder(as_ours(whole(), CHOSEN[0]), CHOSEN[0], PAD).eval().requires_grad_(False)


@pytest.mark.parametrize("device", DEVICES)
def test_every_device_gets_four_axes_and_numbers(device: str) -> None:
    check_axes_and_types(encoder(), texts(), device)


@pytest.mark.slow
def test_the_android_file_is_pytorch_and_the_lint_accepts_it(tmp_path: Path) -> None:
    check_android_file(encoder(), texts(), tmp_path)
