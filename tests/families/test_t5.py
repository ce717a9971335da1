"""T5 as a text encoder: the same features as Transformers', whatever the length, and files that hold them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import T5Config, T5EncoderModel
from transformers.models.t5.modeling_t5 import T5Attention

from sdmobile.errors import UnsupportedError
from sdmobile.families import t5
from sdmobile.families.t5_encoder import T5TextEncoder, distance_buckets

SIZES: dict[str, Any] = {"vocab_size": 90, "d_model": 24, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_heads": 3}
LENGTH, TOKENS = 160, 23


@pytest.mark.parametrize(("length", "buckets", "most"), [(300, 32, 128), (7, 32, 128), (400, 16, 40)])
def test_buckets_are_those_of_transformers(length: int, buckets: int, most: int) -> None:
    places = torch.arange(length)
    theirs = T5Attention._relative_position_bucket(places[None, :] - places[:, None], True, buckets, most)
    assert torch.equal(distance_buckets(length, buckets, most), theirs)


@pytest.fixture(params=["gated-gelu", "relu"])
def model(request: pytest.FixtureRequest) -> T5EncoderModel:
    """A model with biases and norms that matter."""
    torch.manual_seed(0)
    module: Any = T5EncoderModel(T5Config(**SIZES, feed_forward_proj=request.param)).eval()
    for name, parameter in module.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.uniform_(parameter, 0.5, 2.0)
    return module


def as_ours(model: T5EncoderModel) -> Any:
    """Returns the module that the family builds of the same weights, by the names that a checkpoint stores."""
    config = model.config.to_dict()
    module = t5.MODEL.build({key: config[key] for key in (*SIZES, "feed_forward_proj")})
    stored = {key: value for key, value in model.state_dict().items() if key != "encoder.embed_tokens.weight"}
    module.load_state_dict(stored, strict=True)
    return module.eval()


@pytest.mark.parametrize("kind", [torch.int32, torch.int64, torch.float32])
def test_features_are_those_of_transformers(model: T5EncoderModel, kind: torch.dtype) -> None:
    ids = torch.randint(1, SIZES["vocab_size"], (1, LENGTH), generator=torch.Generator().manual_seed(1))
    ids[:, TOKENS:] = t5.PAD
    with torch.no_grad():
        theirs = model(input_ids=ids, attention_mask=(ids != t5.PAD).long()).last_hidden_state
        ours = T5TextEncoder(as_ours(model), LENGTH, t5.PAD)(ids.to(kind))
        alone = model(input_ids=ids[:, :TOKENS]).last_hidden_state
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours[:, :TOKENS], alone, atol=1e-5, rtol=0)
    assert (ours - model(input_ids=ids).last_hidden_state)[:, :TOKENS].abs().max() > 0.01  # the mask matters


def test_sizes_are_read_off_the_weights(model: T5EncoderModel) -> None:
    shapes = {key: tuple(value.shape) for key, value in as_ours(model).state_dict().items()}
    assert t5.MODEL.derive(shapes) == {**SIZES, "relative_attention_num_buckets": 32}


@pytest.mark.parametrize(
    "change", [{"feed_forward_proj": "gated-silu"}, {"attn_implementation": "kernels-community/flash"}]
)
def test_other_blocks_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match=str(next(iter(change.values())))):
        t5.MODEL.check("T5EncoderModel", change)
