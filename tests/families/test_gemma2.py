"""Gemma 2 as a text encoder: the same features as Transformers', whatever fills up a text, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, Gemma2Model

from sdmobile.checkpoints.modules import empty_module
from sdmobile.errors import UnsupportedError
from sdmobile.families import gemma2
from sdmobile.families.gemma2_encoder import Gemma2TextEncoder, chosen
from tests.families.language_files import DEVICES, check_android_file, check_axes_and_types
from tests.synthetic import GEMMA

LENGTH, TOKENS, ROWS = 96, 41, 64
SIZES: dict[str, Any] = {**GEMMA, "vocab_size": 90}


@pytest.fixture(scope="module", params=[(4, 2), (4, 1), (2, 2)], ids=["two share", "all share", "none shares"])
def model(request: pytest.FixtureRequest) -> Gemma2Model:
    return made(*request.param)


def made(heads: int = 4, shared: int = 2) -> Gemma2Model:
    """Returns a model whose norms matter, and whose scores reach the soft cap."""
    torch.manual_seed(0)
    sizes = {**SIZES, "num_attention_heads": heads, "num_key_value_heads": shared}
    module: Any = Gemma2Model(Gemma2Config(**sizes)).eval()
    for name, parameter in module.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, -0.5, 1.0)
        elif "q_proj" in name or "k_proj" in name:
            torch.nn.init.normal_(parameter, std=1.0)
    return module


def as_ours(model: Gemma2Model) -> Any:
    """Returns the module that the family builds of the same weights: on no device, and then filled."""
    config = {**SIZES, **{key: getattr(model.config, key) for key in ("num_attention_heads", "num_key_value_heads")}}
    module = empty_module(gemma2.MODEL, config)
    module.load_state_dict(model.state_dict(), strict=True, assign=True)
    return module.eval()


def texts() -> torch.Tensor:
    ids = torch.randint(1, SIZES["vocab_size"], (1, LENGTH), generator=torch.Generator().manual_seed(1))
    ids[:, TOKENS:] = gemma2.PAD
    return ids


@pytest.mark.parametrize("kind", [torch.int32, torch.int64, torch.float32])
def test_features_are_those_of_transformers(model: Gemma2Model, kind: torch.dtype) -> None:
    ids = texts()
    mask = (torch.arange(LENGTH) < TOKENS).long()[None]
    with torch.no_grad():
        theirs = model(input_ids=ids, attention_mask=mask).last_hidden_state
        alone = model(input_ids=ids[:, :TOKENS]).last_hidden_state
        reference: Any = gemma2.text_encoder(LENGTH).reference(as_ours(model), {"input_ids": ids})
        ours = Gemma2TextEncoder(as_ours(model), LENGTH, gemma2.PAD)(ids.to(kind))
    assert torch.equal(reference, theirs)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours[:, :TOKENS], alone, atol=1e-4, rtol=0)


def test_scores_reach_the_cap(model: Gemma2Model) -> None:
    """Without it the features are others, so that the comparison above says something about it."""
    config = Gemma2Config(**{**model.config.to_dict(), "attn_logit_softcapping": None})
    free: Any = Gemma2Model(config).eval()
    free.load_state_dict(model.state_dict())
    with torch.no_grad():
        difference = free(input_ids=texts()).last_hidden_state - model(input_ids=texts()).last_hidden_state
    assert difference[:, :TOKENS].abs().max() > 0.01


def test_the_first_and_the_last_rows_are_returned(model: Gemma2Model) -> None:
    ids = texts()
    with torch.no_grad():
        every = Gemma2TextEncoder(as_ours(model), LENGTH, gemma2.PAD)(ids)
        some = Gemma2TextEncoder(as_ours(model), ROWS, gemma2.PAD)(ids)
        reference = gemma2.text_encoder(ROWS).reference(as_ours(model), {"input_ids": ids})
    select = [0, *range(-ROWS + 1, 0)]
    torch.testing.assert_close(some, every[:, select], atol=1e-5, rtol=0)
    torch.testing.assert_close(some, reference, atol=1e-4, rtol=0)
    assert chosen(every, LENGTH) is every


def test_sizes_are_read_off_the_weights(model: Gemma2Model) -> None:
    derived = gemma2.MODEL.derive({key: tuple(value.shape) for key, value in model.state_dict().items()})
    assert derived == {key: SIZES[key] for key in derived}
    assert set(derived) == {"vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size"}


@pytest.mark.parametrize("stated", [{"rope_theta": 500.0}, {"rope_parameters": {"rope_theta": 500.0}}])
def test_places_turn_as_the_configuration_says(stated: dict[str, Any]) -> None:
    module: Any = empty_module(gemma2.MODEL, {**SIZES, **stated})
    theirs: Any = Gemma2Model(Gemma2Config(**SIZES, rope_parameters={"rope_type": "default", "rope_theta": 500.0}))
    assert torch.equal(module.rotary_emb.inv_freq, theirs.rotary_emb.inv_freq)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_activation": "silu"},
        {"use_bidirectional_attention": True},
        {"rope_scaling": {"factor": 2.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0}},
        {"attn_logit_softcapping": None},
        {"query_pre_attn_scalar": 0},
        {"sliding_window": 128},
        {"attn_implementation": "kernels-community/flash"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_layers_are_refused(change: dict[str, Any]) -> None:
    gemma2.MODEL.check("Gemma2Model", SIZES)
    with pytest.raises(UnsupportedError) as raised:
        gemma2.MODEL.check("Gemma2Model", {**SIZES, **change})
    key = "rope_type" if "rope_parameters" in change else next(iter(change))
    assert key in raised.value.message()


def encoder() -> Gemma2TextEncoder:
    return Gemma2TextEncoder(as_ours(made()), ROWS, gemma2.PAD).eval().requires_grad_(False)


@pytest.mark.parametrize("device", DEVICES)
def test_every_device_gets_four_axes_and_numbers(device: str) -> None:
    check_axes_and_types(encoder(), texts(), device)


@pytest.mark.slow
def test_the_android_file_is_pytorch_and_the_lint_accepts_it(tmp_path: Path) -> None:
    check_android_file(encoder(), texts(), tmp_path)
